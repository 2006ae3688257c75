"""The wire, and nothing that computes: protocol definitions and the code generated from them."""
