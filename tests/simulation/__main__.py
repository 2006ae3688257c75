"""Plays seeds: `python -m tests.simulation SEED` one, with its trace; `python -m tests.simulation --seeds 10000` many.

Many are played by as many processes as may run at once, or `--processes`, from seed `--first` on. It prints how many
were played, and each violation with what plays it again; any makes the status 1.
"""

import argparse
import contextlib
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.simulation.cluster import SimulatedCluster
from tests.simulation.many import Tally, num_usable_cpus, play_all


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
    """Play all seeds with a progress bar; return the exit status. Ctrl-C ends it early: what was played is told."""
    console, began_s = Console(soft_wrap=True), time.monotonic()
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    tally = Tally()
    with Progress(*columns, console=console) as progress, contextlib.suppress(KeyboardInterrupt):
        bar = progress.add_task("0 violations", total=len(seeds))
        for played in play_all(seeds, num_processes):
            tally.take(played)
            if played.violation is not None:
                console.print(f"seed {played.seed}: {played.violation}", markup=False)
                console.print(f"  play it again: python -m tests.simulation {played.seed}", markup=False)
            progress.update(bar, advance=1, description=f"{tally.num_violations} violations")
    minutes = (time.monotonic() - began_s) / 60
    console.print(
        f"{tally.num_played} seeds from {seeds.start} on, {tally.num_events} events, {tally.num_faults} lines of trace,"
        f" {tally.num_violations} violations; {tally.num_played / minutes:.0f} a minute on {num_processes} processes"
    )
    return 1 if tally.num_violations or tally.num_played < len(seeds) else 0


if __name__ == "__main__":
    main()
