"""Plays seeds: `python -m tests.simulation SEED` one, with its trace; `python -m tests.simulation --seeds 10000` many.

Many are played by as many processes as may run at once, or `--processes`, from seed `--first` on. It prints how many
were played, and each violation with what plays it again; any makes the status 1.
"""

import argparse
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.simulation.cluster import SimulatedCluster
from tests.simulation.many import Played, num_usable_cpus, play_all


def main() -> None:
    """Play what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("seed", type=int, nargs="?", help="play this one and print its trace")
    what.add_argument("--seeds", type=int, help="how many to play")
    parser.add_argument("--first", type=int, default=0, help="the first of many")
    parser.add_argument("--processes", type=int, default=num_usable_cpus())
    asked = parser.parse_args()
    if asked.seed is not None:
        play_one(asked.seed)
    else:
        sys.exit(play_many(range(asked.first, asked.first + asked.seeds), asked.processes))


def play_one(seed: int) -> None:
    """Play a seed; its trace is printed whether it fails or not."""
    simulated = SimulatedCluster(seed)
    try:
        simulated.run()
    finally:
        Console().print("\n".join(simulated.world.trace), highlight=False)
        for one in simulated.edge.received.values():
            Console().print(one, highlight=False)


def play_many(seeds: range, num_processes: int) -> int:
    """Play all seeds with a progress bar; return the exit status."""
    console, began_s = Console(soft_wrap=True), time.monotonic()
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    violated: list[Played] = []
    num_played = num_events = num_faults = 0
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("0 violations", total=len(seeds))
        for played in play_all(seeds, num_processes):
            num_played, num_events, num_faults = (
                num_played + 1,
                num_events + played.num_events,
                num_faults + played.num_faults,
            )
            if played.violation is not None:
                violated.append(played)
                console.print(
                    f"seed {played.seed}: {played.violation}\n  python -m tests.simulation {played.seed}", markup=False
                )
            progress.update(bar, advance=1, description=f"{len(violated)} violations")
    minutes = (time.monotonic() - began_s) / 60
    console.print(
        f"{num_played} seeds from {seeds.start} on, {num_events} events, {num_faults} lines of trace, "
        f"{len(violated)} violations; {num_played / minutes:.0f} seeds a minute on {num_processes} processes"
    )
    return 1 if violated else 0


if __name__ == "__main__":
    main()
