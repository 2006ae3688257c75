"""How far a process of the cluster has come, and that one which serves is never said to be on its way."""

from cluster.cluster_status import READY, ComponentReport
from cluster.progress_reporter import ProgressReporter
from model.load import LoadProgress

SERVING = ComponentReport("attention-1", "attention", READY, is_ready=True, detail="here")


def test_a_start_is_told_in_stages_and_a_load_by_its_last_part() -> None:
    sent: list[ComponentReport] = []
    reporter = ProgressReporter("attention-1", "attention", sent.append)
    reporter.stage("opening the checkpoint")
    for done in range(1, 5):
        reporter.loading(LoadProgress("experts", done, 4))
    assert [report.stage for report in sent] == ["opening the checkpoint", "loading experts", "loading experts"]
    assert (sent[-1].done, sent[-1].total) == (4, 4)
    assert not any(report.is_ready for report in sent)


def test_who_serves_goes_on_serving_while_it_loads_more() -> None:
    sent: list[ComponentReport] = []
    reporter = ProgressReporter("attention-1", "attention", sent.append)
    reporter.serves(lambda: SERVING)
    reporter.loading(LoadProgress("experts", 4, 4))
    (report,) = sent
    assert report.is_ready
    assert report.stage == READY
    assert report.detail == "here; loading experts, 4 of 4"
