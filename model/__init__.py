"""gpt-oss as mathematics: configuration, weights, tokens and layers. Torch only; no Ray, no gRPC, no HTTP."""
