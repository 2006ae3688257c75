"""Mixed load while processes are killed, for as long as asked: `python -m tests.chaos.soak --minutes 30`.

A cluster of its own (`tiny`, two attention replicas, four workers) is asked twenty questions at once, again and again:
greedy, sampled, tool calls, grammars, several choices, long prompts, most of them streams. Every few seconds a worker,
an attention replica or the supervisor is killed. Every answer is compared with the undisturbed run. Now and then the
load pauses until the cluster is whole, and what its processes hold then is counted. Prints a table of it, writes the
counts as JSON rows and draws them; the status is 1 if an answer was lost or changed, or something grew or was left.
"""

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from router.errors import StartFailed
from router.failover.answers import Answer, ask_all
from router.failover.faults import Fault, Strike, strike
from router.failover.questions import questions
from router.failover.verdict import Verdict, in_ms
from router.failover.victim import Victim
from tests.chaos.census import Census
from tests.chaos.growth import BLOCKS, trends
from tests.chaos.soak_picture import picture

NUM_WORKERS = 4
SETTINGS = (
    "attention.min_replicas=2",
    "attention.max_replicas=2",
    f"experts.num_workers={NUM_WORKERS}",
    "experts.copies=2",
)
_REST_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 15.0
"""Killed processes take a moment to end."""


@dataclass
class Soak:
    """A cluster under load and blows; what became of its answers, and what it held at each rest."""

    victim: Victim
    kill_every_s: float
    round_s: float
    chance: random.Random
    verdict: Verdict = field(default_factory=lambda: Verdict("soak"))
    census: Census = field(default_factory=Census)
    samples: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    sampled_s: list[float] = field(default_factory=list[float])
    strikes: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    """When each blow fell, in seconds since the start, and whom it struck."""

    def __post_init__(self) -> None:
        """Warm up, and take the answers that all others are compared with."""
        self.asked = questions()
        self._ask()
        self._control = self._ask()
        errors = [answer.error for answer in self._control if answer.error]
        if errors:
            raise StartFailed(f"the undisturbed run has errors: {errors[0]}")
        self._began_s = time.monotonic()

    def run_round(self) -> None:
        """Ask and strike for a while; then let the cluster come to rest and count."""
        is_over = threading.Event()
        killer = threading.Thread(target=self._strike_until, args=[is_over])
        killer.start()
        end_s = time.monotonic() + self.round_s
        try:
            while time.monotonic() < end_s:
                began_s = time.monotonic()
                self.verdict.take(self._ask(), self._control, began_s)
        finally:
            is_over.set()
            killer.join()
        self.victim.mend()
        blocks = self._blocks_at_rest()
        self.samples.append({**self.census.take(self.victim.processes()), BLOCKS: blocks})
        self.sampled_s.append(self._now_s())

    def _strike_until(self, is_over: threading.Event) -> None:
        struck: Counter[str] = Counter()
        end_s = time.monotonic() + self.round_s
        while not is_over.wait(self.kill_every_s) and time.monotonic() < end_s:
            role = next_role(self.chance, {role: len(self.victim.pids(role)) for role in _ROLES}, struck)
            if role is None:
                continue
            _, num_struck = strike(Fault("soak", (Strike(role),)), self.victim.pids)
            if num_struck:
                struck[role] += 1
                self.verdict.num_strikes += 1
                self.strikes.append((self._now_s(), role))

    def _ask(self) -> list[Answer]:
        return ask_all(self.victim.url, self.victim.model, self.asked)

    def _blocks_at_rest(self) -> float:
        """Return how many KV blocks are in use once the engines have had time to say that none is."""
        deadline_s = time.monotonic() + _REST_TIMEOUT_S
        while (used := blocks_used(self.victim.url)) and time.monotonic() < deadline_s:
            time.sleep(0.2)
        return used

    def _now_s(self) -> float:
        return time.monotonic() - self._began_s


_ROLES = ("worker", "attention", "supervisor")


def next_role(chance: random.Random, living: Mapping[str, int], struck: Mapping[str, int]) -> str | None:
    """Return whom to strike: a worker while half of them live, the supervisor or an attention replica once a round.

    An attention replica only while another stands by: a request that meets three deaths of its engine fails, as it
    should. None if it is nobody's turn: on a slow machine more would die than are made anew.
    """
    roles = ["worker"] * 3 if living["worker"] >= NUM_WORKERS // 2 else []
    if living["attention"] > 1 and not struck.get("attention"):
        roles += ["attention"] * 2
    if living["supervisor"] and not struck.get("supervisor"):
        roles.append("supervisor")
    return chance.choice(roles) if roles else None


def blocks_used(url: str) -> float:
    """Return the KV blocks in use at all engines, as the cluster's metrics have it."""
    text = httpx.get(f"{url}/metrics", trust_env=False, timeout=30.0).text
    (line,) = [line for line in text.splitlines() if line.startswith('expertmesh_engine_kv_blocks{state="used"}')]
    return float(line.rsplit(" ", 1)[1])


def report(soak: Soak, leftovers: list[str], console: Console) -> bool:
    """Print what was seen; return whether nothing was lost, changed, grown or left."""
    verdict, found = soak.verdict, trends(soak.samples)
    table = Table("figure, at rest", "first third", "middle", "last third", "most", "")
    for trend in found:
        numbers = (f"{number:.1f}" for number in (trend.first, trend.middle, trend.last, trend.most))
        table.add_row(trend.name, *numbers, "GROWS" if trend.is_growing else "")
    console.print(table)
    struck = ", ".join(f"{role} {number}" for role, number in sorted(Counter(role for _, role in soak.strikes).items()))
    console.print(
        f"{soak.sampled_s[-1] / 60:.1f} min, {len(soak.samples)} rests, {verdict.num_strikes} kills ({struck}), "
        f"{verdict.num_runs} runs of {len(soak.asked)}: {verdict.same} answers the same, {verdict.changed} changed, "
        f"{verdict.failed} failed; longest gap of a stream, less its usual one: median "
        f"{in_ms(verdict.stalls_s, 0.5)} ms, p99 {in_ms(verdict.stalls_s, 0.99)} ms"
    )
    for error in sorted(set(verdict.errors)):
        console.print(f"failed: {error}", markup=False)
    for left in leftovers:
        console.print(f"left behind: {left}", markup=False)
    return not (leftovers or verdict.changed or verdict.failed or any(trend.is_growing for trend in found))


def write(soak: Soak, out: Path) -> None:
    """Write a JSON row for each rest, and the picture beside it."""
    rows = [
        {"at_s": round(at_s, 1), **{name: round(number, 1) for name, number in sorted(sample.items())}}
        for at_s, sample in zip(soak.sampled_s, soak.samples, strict=True)
    ]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    strikes_s = [at_s for at_s, _ in soak.strikes]
    out.with_suffix(".svg").write_text(picture(soak.sampled_s, soak.samples, strikes_s), encoding="utf-8")


def main() -> None:
    """Run as long as the command line says, and at least one round."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--kill-every-s", type=float, default=4.0)
    parser.add_argument("--round-s", type=float, default=25.0, help="load between two rests")
    parser.add_argument("--seed", type=int, default=0, help="of who is struck next")
    parser.add_argument("--out", type=Path, default=Path("soak.jsonl"))
    asked = parser.parse_args()
    console = Console(soft_wrap=True)
    with console.status("starting") as status, Victim("tiny", SETTINGS) as victim:
        soak = Soak(victim, asked.kill_every_s, asked.round_s, random.Random(asked.seed))
        end_s = time.monotonic() + 60 * asked.minutes
        while not soak.samples or time.monotonic() < end_s:
            soak.run_round()
            left_min = max(0.0, end_s - time.monotonic()) / 60
            status.update(f"{soak.verdict.num_strikes} kills, {soak.verdict.num_runs} runs, {left_min:.0f} min left")
            write(soak, asked.out)
    is_sound = report(soak, soak.census.leftovers(_END_TIMEOUT_S), console)
    sys.exit(0 if is_sound else 1)


if __name__ == "__main__":
    main()
