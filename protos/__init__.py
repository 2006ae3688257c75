"""The wire, and nothing that computes: protocol definitions and the code generated from them.

The methods of the generated `*Servicer` classes refuse every call: whoever serves a service overrides all of them
(tests/router/test_every_rpc.py). `python -m protos.generate` makes the code anew.
"""
