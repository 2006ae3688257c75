"""What is there for good costs a full collection nothing; what comes later is collected as ever."""

import gc
import weakref

from cluster.lasting import set_lasting_aside


class Knot:
    """An object that only the collector can free."""

    def __init__(self) -> None:
        self.own = self


def test_a_collection_passes_over_what_was_set_aside_and_frees_what_came_later() -> None:
    lasting = [Knot() for _ in range(1000)]
    set_lasting_aside()
    try:
        assert gc.get_freeze_count() > 1000
        looked_at = {id(one) for one in gc.get_objects()}
        assert not any(id(one) in looked_at for one in lasting)
        later = weakref.ref(Knot())
        gc.collect()
        assert later() is None
    finally:
        gc.unfreeze()
    assert gc.get_freeze_count() == 0
    assert len(lasting) == 1000
