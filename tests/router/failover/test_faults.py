"""Strikes on real processes, and the moments they fall at."""

import subprocess
import sys
import time
from pathlib import Path

from router.failover.faults import FAULTS, TITLES, Fault, Strike, moment, strike


def test_a_double_fault_strikes_two_processes_and_no_one_twice() -> None:
    sleepers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(3)]
    pids = {"worker": [sleeper.pid for sleeper in sleepers]}
    try:
        began_s = time.monotonic()
        struck_s, num_struck = strike(Fault("two", (Strike("worker"), Strike("worker"))), lambda role: pids[role])
        assert num_struck == 2
        assert began_s <= struck_s <= time.monotonic()
        assert sorted(pids["worker"])[:2] == sorted(one.pid for one in sleepers if _is_dead(one))
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


def _is_dead(process: "subprocess.Popen[bytes]") -> bool:
    try:
        return process.wait(0.5) < 0
    except subprocess.TimeoutExpired:
        return False


def test_a_stopped_process_stands_still() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as sleeper:
        try:
            strike(Fault("hang", (Strike("worker", is_kill=False),)), lambda role: [sleeper.pid])
            status = Path(f"/proc/{sleeper.pid}/stat").read_text(encoding="ascii")
            assert status.split(") ")[1][0] == "T"
        finally:
            sleeper.kill()


def test_nobody_of_the_role_means_no_strike() -> None:
    assert strike(FAULTS[0], lambda role: [])[1] == 0


def test_moments_are_planned_first_then_random_by_the_seed() -> None:
    fault = FAULTS[0]
    assert moment(0, 0, fault) < 0.1
    assert moment(1, 0, fault) == 0.5
    assert moment(2, 0, fault) == moment(2, 0, fault) != moment(2, 1, fault)


def test_every_role_that_is_struck_has_a_title() -> None:
    assert {one.role for fault in FAULTS for one in fault.strikes} == set(TITLES)
