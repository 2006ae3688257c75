"""From the supervisor's status to what `/ready` and `/metrics` tell. Pure functions."""

from cluster.cluster_status import BalanceStatus, ClusterStatus, ComponentReport
from router.backend import BackendStats, ComponentProgress, Readiness


def readiness_of(status: ClusterStatus | None) -> Readiness:
    """Return whether the cluster can serve, and what it still waits for; None means that nothing is known yet."""
    if status is None:
        return Readiness(is_ready=False, stage="starting", detail="the supervisor has not answered yet")
    attention = [report for report in status.components if report.role == "attention"]
    facts = attention[0].facts if attention else {}
    waiting = [report for report in status.components if not report.is_ready]
    return Readiness(
        is_ready=status.is_ready,
        stage="ready" if status.is_ready else _stage(waiting),
        progress=_progress(status),
        detail="; ".join(f"{report.name}: {report.stage} {report.detail}".strip() for report in waiting),
        fingerprint=facts.get("fingerprint"),
        kernel_backend=facts.get("kernel_backend"),
        max_context_tokens=int(facts["max_context_tokens"]) if "max_context_tokens" in facts else None,
        placement=placement_text(status),
        components=tuple(_component(report) for report in status.components),
    )


def stats_of(status: ClusterStatus | None) -> BackendStats:
    """Return the sums over all attention replicas that report."""
    if status is None:
        return BackendStats()
    reports = [report.stats for report in status.components if report.role == "attention" and report.stats]

    def total(name: str) -> int:
        return int(sum(stats.get(name, 0.0) for stats in reports))

    return BackendStats(
        num_running=total("num_running"),
        num_waiting=total("num_waiting"),
        num_used_blocks=total("num_used_blocks"),
        num_free_blocks=total("num_free_blocks"),
        num_tokens=total("num_tokens"),
        num_preemptions=total("num_preemptions"),
        num_drafted=total("num_drafted"),
        num_accepted=total("num_accepted"),
        num_engines=len(reports),
        balance=status.balance,
        num_rescued=status.num_rescued,
    )


def placement_text(status: ClusterStatus) -> str:
    """Return in a few words where the experts are."""
    if status.num_workers == 0:
        still = "" if status.num_placed is None else f", experts still on {status.num_placed} workers"
        return f"collapsed: all experts beside attention{still}"
    ready = sum(1 for report in status.components if report.role == "worker" and report.is_ready)
    epoch = "no epoch yet" if status.epoch is None else f"epoch {status.epoch}"
    text = f"{ready} of {status.num_workers} workers, {status.copies} copies of each expert, {epoch}"
    if status.num_placed is not None:
        text += f", experts still on {status.num_placed}" if status.num_placed else ", experts still beside attention"
    text += f", {status.num_rescued} experts on workers that stand in" if status.num_rescued else ""
    return text if status.balance is None else f"{text}, {balance_text(status.balance)}"


def balance_text(balance: BalanceStatus) -> str:
    """Return in a few words how even the workers are, and whether somebody still sees to it."""
    text = f"imbalance {balance.imbalance:.2f}, {balance.num_loads} experts moved"
    stalled = f", no round of balancing ended for {balance.round_age_s:.0f} s"
    return text + stalled if balance.is_stalled else text


def _stage(waiting: list[ComponentReport]) -> str:
    return waiting[0].stage if waiting else "starting"


def _progress(status: ClusterStatus) -> float:
    """Return the mean over what must be there: every worker, and one attention replica at least."""
    reports = status.components
    missing = status.num_workers - sum(1 for report in reports if report.role == "worker")
    missing += 0 if any(report.role == "attention" for report in reports) else 1
    return sum(report.fraction for report in reports) / max(1, len(reports) + max(0, missing))


def _component(report: ComponentReport) -> ComponentProgress:
    return ComponentProgress(
        report.name,
        report.stage,
        report.fraction,
        report.is_ready,
        report.detail,
        role=report.role,
        done=report.done,
        total=report.total,
    )
