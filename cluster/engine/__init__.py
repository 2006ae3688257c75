"""The engine: continuous batching over a paged KV cache, one plain thread, neither Ray nor gRPC."""
