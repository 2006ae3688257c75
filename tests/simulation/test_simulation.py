"""Thousands of clusters under random faults, each from one seed: no token changes, none is lost, nothing leaks.

`EXPERTMESH_SIMULATION_SEEDS=10000 pytest tests/simulation` plays more of them, from
`EXPERTMESH_SIMULATION_FIRST` on; a seed that fails is played again, with
its trace, by `python -m tests.simulation SEED`.
"""

import os

import pytest

from tests.simulation.cluster import SimulatedCluster

FIRST_SEED = int(os.environ.get("EXPERTMESH_SIMULATION_FIRST", "0"))
NUM_SEEDS = int(os.environ.get("EXPERTMESH_SIMULATION_SEEDS", "150"))
SEEDS_IN_A_TEST = 25


@pytest.mark.parametrize("first", range(FIRST_SEED, FIRST_SEED + NUM_SEEDS, SEEDS_IN_A_TEST))
def test_whatever_happens_every_sequence_has_its_tokens(first: int) -> None:
    for seed in range(first, first + SEEDS_IN_A_TEST):
        simulated = SimulatedCluster(seed)
        try:
            simulated.run()
        except AssertionError as error:
            told = "\n".join(simulated.world.trace)
            raise AssertionError(
                f"seed {seed}: {error}\n{told}\nplay it again: python -m tests.simulation {seed}"
            ) from error
