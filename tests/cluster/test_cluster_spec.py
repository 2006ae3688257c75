"""Names and revisions: what may keep its workers, and who belongs to an older revision."""

import random
from dataclasses import replace

from cluster.cluster_spec import ClusterSpec
from cluster.config import AttentionSection, EngineSection, ExpertsSection, ModelSection, NumericsSection

SPEC = ClusterSpec(
    "app", ModelSection(), NumericsSection(), EngineSection(), ExpertsSection(), AttentionSection(), build="1.0"
)


def test_a_revision_changes_with_what_workers_are_made_from_and_only_with_that() -> None:
    changed = [
        replace(SPEC, model=ModelSection(path="/elsewhere")),
        replace(SPEC, numerics=NumericsSection(mode="float32")),
        replace(SPEC, experts=ExpertsSection(num_workers=5)),
        replace(SPEC, build="1.1"),
    ]
    assert len({spec.revision for spec in (SPEC, *changed)}) == 5
    assert replace(SPEC, engine=EngineSection(block_tokens=32)).revision == SPEC.revision
    assert replace(SPEC, attention=AttentionSection(max_replicas=3)).revision == SPEC.revision


def test_only_actors_of_other_revisions_of_the_same_application_are_older() -> None:
    old = replace(SPEC, build="0.9")
    ours = [SPEC.supervisor_name, SPEC.worker_name(0, 1)]
    theirs = [replace(SPEC, application="another").supervisor_name, "somebody's actor", ""]
    older = [old.supervisor_name, old.worker_name(0, 1), old.worker_name(3, 7)]
    names = [*ours, *theirs, *older]
    random.Random(0).shuffle(names)
    found = SPEC.older_names(names)
    assert sorted(found) == sorted(older)
    assert found[0] == old.supervisor_name, "a supervisor goes first, or it would make its workers anew"


def test_every_incarnation_has_a_name_of_its_own() -> None:
    names = {SPEC.worker_name(index, incarnation) for index in range(12) for incarnation in range(12)}
    assert len(names) == 144
