"""Experts away from attention: placement, dispatch, wire, client and server."""
