"""`expertmesh bench failover`: strikes the processes of a cluster that it starts, and tells what clients saw."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from router.failover.faults import Fault
    from router.failover.trial import Trial
    from router.failover.verdict import Verdict

_COLUMNS = ("fault", "strikes", "same", "changed", "failed", "stall p50", "stall p99")


def failover(
    preset: Annotated[str, typer.Argument(help="Preset or file of the cluster that is started.")] = "tiny",
    set_: Annotated[list[str] | None, typer.Option("--set", help="A field of its config, a.b=c; repeatable.")] = None,
    fault: Annotated[list[str] | None, typer.Option(help="Only faults whose name has this in it; repeatable.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each fault falls.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the random moments.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Append the rows here as JSON, with a picture beside it.")] = None,
) -> None:
    """Kill and stop processes of a cluster of its own under twenty mixed requests, and compare every answer.

    Two attention replicas unless --set says otherwise. Exit code 1 if an answer changed or failed; answers whose
    connection died with its process (edge killed) are to be the same when asked again.
    """
    from router.errors import StartFailed
    from router.failover.trial import Trial
    from router.failover.victim import Victim

    console = Console(stderr=True)
    faults = _chosen(fault or [])
    settings = ["attention.min_replicas=2", "attention.max_replicas=2", *(set_ or [])]
    try:
        with console.status("starting a cluster") as status, Victim(preset, settings) as victim:
            trial = Trial(victim, seed, status.update)
            verdicts = [_tell(trial.run(one, rounds), trial, out) for one in faults]
    except StartFailed as error:
        console.print(f"error: {error}", markup=False)
        raise typer.Exit(1) from error
    console.print(_table(verdicts))
    _save_picture(trial, out)
    if any(_is_broken(verdict, one) for verdict, one in zip(verdicts, faults, strict=True)):
        raise typer.Exit(1)


def _chosen(names: list[str]) -> "list[Fault]":
    from router.failover.faults import FAULTS

    chosen = [one for one in FAULTS if not names or any(name in one.name for name in names)]
    if not chosen:
        known = ", ".join(one.name for one in FAULTS)
        raise typer.BadParameter(f"no fault has such a name; there are: {known}", param_hint="--fault")
    return chosen


def _tell(verdict: "Verdict", trial: "Trial", out: Path | None) -> "Verdict":
    """Print a row as soon as it is there, and keep it."""
    from router.failover.questions import questions
    from router.failover.trial import to_json

    row = to_json(verdict, questions(), trial.control_gaps_s)
    typer.echo(row)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(row + "\n")
    return verdict


def _save_picture(trial: "Trial", out: Path | None) -> None:
    from router.failover.picture import picture

    if out is not None and trial.portrait is not None:
        out.with_suffix(".svg").write_text(picture(trial.portrait), encoding="utf-8")


def _table(verdicts: "list[Verdict]") -> Table:
    table = Table(*_COLUMNS)
    for verdict in verdicts:
        row = verdict.to_row()
        failed = str(verdict.failed)
        if verdict.same_on_retry:
            failed += f", {verdict.same_on_retry} the same when asked again"
        counts = (str(number) for number in (verdict.num_strikes, verdict.same, verdict.changed))
        table.add_row(verdict.fault, *counts, failed, *(f"{row[f'stall_{name}_ms']} ms" for name in ("p50", "p99")))
    return table


def _is_broken(verdict: "Verdict", fault: "Fault") -> bool:
    excused = verdict.same_on_retry if fault.hits_edge else 0
    return verdict.changed > 0 or verdict.failed > excused or verdict.too_late == verdict.num_runs
