"""Harmony, the format gpt-oss speaks: conversations to token ids (`render`), token ids to typed deltas (`parse`)."""
