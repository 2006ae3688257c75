"""`expertmesh bench edge`: what HTTP, parsing and streaming add to what the engine alone would take."""
