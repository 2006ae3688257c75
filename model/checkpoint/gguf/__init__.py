"""GGUF, the file format of llama.cpp and Ollama: read as a checkpoint, and written from any source of weights.

`header` and `writer` know the container, `blocks` the bytes of a tensor, `layout`, `metadata` and `vocabulary` how
gpt-oss lies in it; `checkpoint` reads a model and `write` writes one.
"""
