"""`expertmesh bench failover`: what clients see while the processes of a cluster are killed and stopped."""
