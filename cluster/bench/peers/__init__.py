"""Programs that are measured side by side, each in a process of its own; this engine is one of them.

Such a process may belong to another Python environment: it finds this package and nothing else of ours, so that only
`expertmesh` may import what needs torch or our other packages.
"""
