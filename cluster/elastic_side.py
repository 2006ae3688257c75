"""ElasticSide: the experts of one attention process, on workers or here, wherever the published placement has them.

    membership wants them here ──▶ load all, beside the workers ──▶ placement is collapsed: the next step runs here
    placement names workers    ──▶ connect to them              ──▶ the next step asks them, and what is here is let go
    none of these is there     ──▶ load all, if wanted here     ──▶ the next step runs here already

One step runs in one place from its first layer to its last, so that nothing changes hands within it. While experts are
both here and on workers, those here stand in for any worker that cannot be asked.
"""

import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np

from cluster.cluster_status import Membership
from cluster.errors import HandshakeRefused, WorkerLost
from cluster.experts.messages import Shard
from cluster.experts.placement import Placement
from cluster.experts.traffic import TrafficReport
from cluster.remote_side import RemoteSide, addresses_of, placement_of
from model.config import ModelConfig
from model.moe import Experts

logger = logging.getLogger(__name__)


class LocalShard(Shard, Experts, Protocol):
    """`model.expert_shard.ExpertShard`, as far as it is used beside attention."""


class Home(Protocol):
    """`cluster.expert_home.ExpertHome`, or a fake."""

    def load(self) -> LocalShard:
        """Return all experts, loaded here."""
        ...

    def connect(self, membership: Membership) -> RemoteSide:
        """Return the way to the workers; raises HandshakeRefused or WorkerLost."""
        ...

    def difference(self, fingerprint: str | None) -> str:
        """Return why experts here would have other bits than on workers of this fingerprint; empty if the same."""
        ...

    def shortage(self) -> str:
        """Return how much memory is missing for all experts to be here; empty if there is enough."""
        ...


class LentExperts:
    """Where the next step finds its experts. Satisfies `model.moe.MovingExperts`."""

    def __init__(self) -> None:
        """Begin without any; `use` comes before the first step."""
        self._lock = threading.Lock()
        self._experts: Experts | None = None
        self._lent: Experts | None = None

    def use(self, experts: Experts) -> None:
        """Lend these from the next step on."""
        with self._lock:
            self._experts = experts

    @contextmanager
    def lend(self) -> Generator[Experts]:
        """Lend the experts for one step; one step runs at a time."""
        with self._lock:
            assert self._experts is not None, "a step began before there were experts"
            lent = self._lent = self._experts
        try:
            yield lent
        finally:
            with self._lock:
                self._lent = None

    @property
    def in_use(self) -> tuple[Experts, ...]:
        """Return those that a step uses or the next one will."""
        with self._lock:
            return tuple(one for one in (self._lent, self._experts) if one is not None)


class ElasticSide:
    """Follows memberships from any thread; loading has a thread of its own."""

    def __init__(self, config: ModelConfig, home: Home) -> None:
        """Find the experts of a model by `home`; `begin` comes before the first step."""
        self.lent = LentExperts()
        self.remote: RemoteSide | None = None
        """None before the first worker was needed."""
        self._ask: Callable[[int], None] | None = None
        self._config = config
        self._home = home
        self._following = threading.RLock()
        self._membership: Membership | None = None
        self._shard: LocalShard | None = None
        self._epoch_here = -1
        self._loading: threading.Thread | None = None

    def begin(self, membership: Membership) -> None:
        """Load or connect, as the first membership says, before this returns; raises what that raises."""
        if membership.needs_no_worker:
            self._shard = self._home.load()
        else:
            self._reach(membership)
        self.follow(membership)

    def ask_by(self, ask: Callable[[int], None]) -> None:
        """Have `ask` called when a newer placement should be published; see `RemoteExperts.on_refresh`."""
        with self._following:
            self._ask = ask
            if self.remote is not None:
                self.remote.experts.on_refresh = ask

    def follow(self, membership: Membership) -> None:
        """Send by this membership, unless a newer one is in use; what it needs first may take a while.

        May be called with the same membership again. Raises HandshakeRefused if the workers' bits are others.
        """
        with self._following:
            if self._membership is None or membership.epoch >= self._membership.epoch:
                self._membership = membership
                self._catch_up(membership, placement_of(membership, self._config))

    @property
    def is_behind(self) -> bool:
        """Say whether something that the membership asks for is neither done nor under way: to follow it may help."""
        with self._following:
            membership = self._membership
            if membership is None:
                return False
            lacks_all = membership.wants_local and self._shard is None and self._loading is None
            return lacks_all or self.epoch_in_use < placement_of(membership, self._config).epoch

    @property
    def epoch_in_use(self) -> int:
        """Return the oldest epoch that a step under way, or the next one, may go by."""
        with self._following:
            epochs = [
                self.remote.experts.epoch_in_use
                if self.remote is not None and one is self.remote.experts
                else self._epoch_here
                for one in self.lent.in_use
            ]
            return min(epochs, default=-1)

    def traffic_report(self) -> TrafficReport:
        """Return which experts were chosen lately, the oldest epoch in use, and whether all experts are here."""
        shape = self._config.num_layers, self._config.num_experts
        with self._following:
            remote = self.remote
            report = TrafficReport(np.zeros(shape), -1) if remote is None else remote.experts.traffic_report()
            difference, is_here = self._home.difference(self._fingerprint_in_use), self._shard is not None
            obstacle = difference or ("" if is_here else self._home.shortage())
            return replace(report, epoch=self.epoch_in_use, has_all=is_here and not difference, obstacle=obstacle)

    @property
    def _fingerprint_in_use(self) -> str | None:
        """Return what sequences under way may have been computed with; None before any worker was known."""
        if self.remote is not None:
            return self.remote.fingerprint
        return None if self._membership is None else self._membership.worker_fingerprint

    def close(self) -> None:
        """End the streams to workers."""
        if self.remote is not None:
            self.remote.experts.close()

    def _catch_up(self, membership: Membership, placement: Placement) -> None:
        if membership.wants_local or placement.is_collapsed:
            self._begin_loading()
        if self._shard is not None and membership.needs_no_worker:
            self._use_shard(self._shard, placement.epoch, membership)
        elif not placement.is_collapsed:
            self._use_workers(membership)

    def _use_shard(self, shard: LocalShard, epoch: int, membership: Membership) -> None:
        if difference := self._home.difference(self._fingerprint_in_use):
            raise HandshakeRefused(difference)
        if shard not in self.lent.in_use[-1:]:
            logger.info("all experts are here from epoch %d on", epoch)
        self._epoch_here = epoch
        self.lent.use(shard)
        if self.remote is not None:
            self.remote.transport.set_workers(addresses_of(membership))

    def _use_workers(self, membership: Membership) -> None:
        difference = self._home.difference(membership.worker_fingerprint)
        if self._shard is not None and difference:
            logger.error("the experts stay here: %s", difference)
            return
        if self._shard is not None and not membership.members:
            logger.warning("the experts stay here for now: no worker is there yet")
            return
        try:
            remote = self._reach(membership)
        except WorkerLost as error:
            logger.warning("the experts stay here for now: %s", error)
            return
        remote.publish(membership)
        self.lent.use(remote.experts)
        if not membership.wants_local and self._shard is not None:
            logger.info("the experts are on workers from epoch %d on", membership.epoch)
            remote.experts.stand_in(None)
            self._shard = None

    def _reach(self, membership: Membership) -> RemoteSide:
        """Return the workers' side, connected when it is first needed."""
        if self.remote is None:
            self.remote = self._home.connect(membership)
            if self._ask is not None:
                self.remote.experts.on_refresh = self._ask
        return self.remote

    def _begin_loading(self) -> None:
        if self._shard is None and self._loading is None:
            self._loading = threading.Thread(target=self._load_all, name="load-experts", daemon=True)
            self._loading.start()

    def _load_all(self) -> None:
        """Load all experts; on any error they stay where they are, and the next membership tries again."""
        shard: LocalShard | None = None
        try:
            shard = self._home.load()
        except Exception:
            logger.exception("the experts cannot be loaded here")
        with self._following:
            self._loading, self._shard = None, shard
            if shard is not None and self.remote is not None:
                self.remote.experts.stand_in(shard)
            if shard is not None and self._membership is not None:
                self.follow(self._membership)
