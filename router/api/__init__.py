"""The wires: OpenAI's HTTP API and the public gRPC service, one file an endpoint family, both onto the same service."""
