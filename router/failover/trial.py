"""The runs of `expertmesh bench failover`: each fault, every time beside an undisturbed run."""

import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from router.errors import StartFailed
from router.failover.answers import ANSWER_TIMEOUT_S, Answer, ask, ask_all
from router.failover.faults import Fault, moment, strike
from router.failover.questions import Question, questions
from router.failover.verdict import Verdict, gaps_s, in_ms
from router.failover.victim import Victim

_RETRY_PAUSE_S = 0.5
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Portrait:
    """One stream through a kill, and the same stream undisturbed; in seconds since each run began."""

    title: str
    struck_s: float
    arrivals_s: tuple[float, ...]
    control_s: tuple[float, ...]


class Trial:
    """Strikes a cluster again and again, and keeps what its clients saw."""

    def __init__(self, victim: Victim, seed: int, tell: Tell) -> None:
        """Warm the cluster up and take the answers that all others are compared with."""
        self._victim, self._seed, self._tell = victim, seed, tell
        self._asked = questions()
        self.portrait: Portrait | None = None
        self.control_gaps_s: list[float] = []
        tell("the undisturbed run")
        self._ask()
        self._control, _, self._duration_s = self._timed()
        errors = [answer.error for answer in self._control if answer.error]
        if errors:
            raise StartFailed(f"the undisturbed run has errors: {errors[0]}")

    def run(self, fault: Fault, num_rounds: int) -> Verdict:
        """Strike `num_rounds` times, each time after an undisturbed run, and return what became of the answers."""
        verdict = Verdict(fault.name)
        for round_number in range(num_rounds):
            self._tell(f"{fault.name}, {round_number + 1} of {num_rounds}")
            self._check_control()
            share = moment(round_number, self._seed, fault)
            answers, struck_s, began_s, num_struck = self._struck(fault, share * self._duration_s)
            verdict.num_strikes += num_struck
            failed = verdict.take(answers, self._control, struck_s)
            if self.portrait is None and fault.name == "worker killed" and share > 0.1:
                self._paint(fault, answers, struck_s, began_s)
            if fault.hits_edge:
                verdict.same_on_retry += sum(self._is_same_again(place) for place in failed)
            self._victim.mend()
        return verdict

    def _check_control(self) -> None:
        """Take an undisturbed run beside the one to come: its gaps are the usual ones, its answers the same."""
        answers, self._control_began_s, self._duration_s = self._timed()
        for question, answer, expected in zip(self._asked, answers, self._control, strict=True):
            if answer.error or answer.choices != expected.choices:
                raise StartFailed(f"undisturbed, {question.name!r} was answered otherwise: {answer.error or 'tokens'}")
            self.control_gaps_s += gaps_s(answer.arrivals_s)
        self._control = answers

    def _struck(self, fault: Fault, delay_s: float) -> tuple[list[Answer], float, float, int]:
        """Return the answers of a run in which a fault falls after a while, when it fell, its begin, how many blows."""
        blows: list[tuple[float, int]] = []
        timer = threading.Timer(delay_s, lambda: blows.append(strike(fault, self._victim.pids)))
        timer.start()
        answers, began_s, _ = self._timed()
        timer.join()
        if not blows or not blows[0][1]:
            raise StartFailed(f"{fault.name}: no such process was found")
        return answers, blows[0][0], began_s, blows[0][1]

    def _timed(self) -> tuple[list[Answer], float, float]:
        began_s = time.monotonic()
        answers = self._ask()
        return answers, began_s, time.monotonic() - began_s

    def _ask(self) -> list[Answer]:
        return ask_all(self._victim.url, self._victim.model, self._asked)

    def _is_same_again(self, place: int) -> bool:
        """Ask a question whose answer was cut off until it is answered: the same seed gives the same answer."""
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        with httpx.Client(base_url=self._victim.url, trust_env=False, timeout=ANSWER_TIMEOUT_S) as client:
            while time.monotonic() < deadline_s:
                answer = ask(client, self._victim.model, self._asked[place])
                if answer.error is None:
                    return answer.choices == self._control[place].choices
                time.sleep(_RETRY_PAUSE_S)
        return False

    def _paint(self, fault: Fault, answers: Sequence[Answer], struck_s: float, began_s: float) -> None:
        """Keep the first stream that was under way when the blow fell."""
        for question, answer, control in zip(self._asked, answers, self._control, strict=True):
            if answer.arrivals_s and answer.arrivals_s[0] < struck_s < answer.arrivals_s[-1]:
                own = tuple(at_s - began_s for at_s in answer.arrivals_s)
                usual = tuple(at_s - self._control_began_s for at_s in control.arrivals_s)
                self.portrait = Portrait(f"{question.name}: {fault.name}", struck_s - began_s, own, usual)
                return


def to_json(verdict: Verdict, asked: Sequence[Question], control_gaps_s: Sequence[float]) -> str:
    """Return a row with what its figures depend on: the load of the machine, and the undisturbed gaps."""
    facts = {
        "bench": "failover",
        **verdict.to_row(),
        "num_requests": len(asked),
        "control_gap_median_ms": round(1000 * statistics.median(control_gaps_s), 1),
        "control_gap_p99_ms": in_ms(control_gaps_s, 0.99),
        "num_cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }
    return json.dumps(facts)
