"""One public file an op: its contract, the choice of backend and the torch twin."""
