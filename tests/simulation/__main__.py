"""Plays one seed's cluster and prints what befell it: `python -m tests.simulation SEED`."""

import sys

from rich.console import Console

from tests.simulation.cluster import SimulatedCluster


def main() -> None:
    """Play the seed given on the command line; its trace is printed whether it fails or not."""
    simulated = SimulatedCluster(int(sys.argv[1]))
    try:
        simulated.run()
    finally:
        Console().print("\n".join(simulated.world.trace), highlight=False)
        for one in simulated.edge.received.values():
            Console().print(one, highlight=False)


if __name__ == "__main__":
    main()
