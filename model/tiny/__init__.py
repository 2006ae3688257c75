"""The embedded tiny gpt-oss: a trained checkpoint in the real architecture, and the program that trains it."""
