"""Equipment: what a run opens when it first needs it: its devices, their pool, the vector store, the endpoint of its
metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from types import TracebackType
from typing import Self

from arxiv_embed.cluster.cluster import Cluster
from arxiv_embed.estimates import LearnedTokens
from arxiv_embed.events import DevicesFound, HealthReported, MetricsServed, PoolReady
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.health import HealthReport
from arxiv_embed.gpu.inventory import describe, inventory
from arxiv_embed.gpu.lease import DeviceInUse, DeviceLeases
from arxiv_embed.gpu.pool import Pool
from arxiv_embed.gpu.process import WorkerProcess
from arxiv_embed.gpu.readings import Reading
from arxiv_embed.gpu.verdicts import Limits
from arxiv_embed.gpu.watch import Watch
from arxiv_embed.journal import Journal
from arxiv_embed.plan import RunPlan
from arxiv_embed.record import progress_path
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed.stores.protocol import NoStore, StoreAway, VectorStore, open_store

LOOK_AGAIN_SECONDS = 10.0


class Equipment:
    """A context manager; leaving it closes all that was opened. `tokens` is what is known of texts' lengths."""

    def __init__(self, plan: RunPlan, options: RunOptions, settings: Settings, journal: Journal) -> None:
        self._plan = plan
        self._options = options
        self._settings = settings
        self._journal = journal
        self.tokens = LearnedTokens(settings.history, plan.files, plan.space.prompt)
        self._open = ExitStack()
        self._leases: DeviceLeases | None = None
        self._cluster: Cluster | None = None
        self._pool: Pool | None = None
        self._store: VectorStore | None = None
        limits = Limits(shrinks=options.production)
        self._watch: Watch | None = None
        """Goes on counting its reports where the pool is started anew."""
        if options.health_seconds:
            self._watch = Watch(options.health_seconds, self._report, limits, self._readings_elsewhere)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close_pool()
        finally:
            self._open.close()

    @property
    def dtype(self) -> str | None:
        """The arithmetic of the pool, once there is one."""
        return self._pool.dtype if self._pool else None

    @property
    def packed(self) -> bool:
        """Whether the pool, where there is one, computes its batches without padding."""
        return self._pool is None or self._pool.packed

    @property
    def devices(self) -> Sequence[Device]:
        """Those of the run: of a cluster the ones that are there now, once it was asked."""
        return self._plan.devices if self._cluster is None else self._cluster.devices()

    @property
    def has_pool(self) -> bool:
        return self._pool is not None

    def pool(self) -> Pool:
        """The pool, on devices that are this run's alone from its first start to the run's end."""
        if self._pool is None:
            self._take_devices()
            begun = time.monotonic()
            pool = Pool(
                self._plan.files,
                self._plan.space,
                self.devices,
                dtype=self._options.dtype,
                batch_size=self._options.batch_size,
                production=self._options.production,
                learned=self._settings.learned,
                lengths=self.tokens.quick,
                hire=self._cluster.hire if self._cluster else WorkerProcess,
                members=self._cluster.devices if self._cluster else None,
                watch=self._watch,
            )
            self._pool = pool.__enter__()
            self._journal.record(PoolReady(self._pool.dtype, time.monotonic() - begun, self._pool.packed))
        return self._pool

    def _readings_elsewhere(self) -> Mapping[str, Reading]:
        return {} if self._cluster is None else self._cluster.readings()

    def _report(self, report: HealthReport) -> None:
        self._journal.record(HealthReported(**asdict(report)))

    def close_pool(self) -> None:
        """Ends the workers; the next call of `pool` starts others."""
        if self._pool is not None:
            self._pool.__exit__(None, None, None)
            self._pool = None

    def store(self) -> VectorStore:
        """The store; raises `StoreAway` for one that was there when the run was planned and is not any more."""
        if self._store is None:
            try:
                self._store = self._open.enter_context(open_store(self._options.store, create=not self._plan.has_store))
            except NoStore as error:
                raise StoreAway(self._options.store) from error
        return self._store

    @property
    def opened_store(self) -> VectorStore | None:
        return self._store

    def serve_metrics(self, run_id: str) -> None:
        """Where the run was asked to, until its end; a port that is taken is told, and the run goes on."""
        if self._options.metrics_port is None:
            return
        from arxiv_embed.endpoint import MetricsEndpoint, PortTaken  # what they load, few runs need

        record = progress_path(self._settings, run_id)
        try:
            endpoint = MetricsEndpoint(record, self._options.metrics_host, self._options.metrics_port)
            served = self._open.enter_context(endpoint)
        except PortTaken as error:
            self._journal.met("", error, error.kind, "the run goes on without them")
            return
        self._journal.record(MetricsServed(served.url))
        self._journal.tell(f"metrics are served at {served.url}", recorded=True)

    def _take_devices(self) -> None:
        """Takes the devices, which stay the run's also while the pool is started anew."""
        if self._options.cluster is None:
            self._lease_devices()
        elif self._cluster is None:
            self._cluster = self._open.enter_context(Cluster(self._options.cluster, self._options.devices))
            names = [device.name for device in self._cluster.devices()]
            self._journal.record(DevicesFound([asdict(facts) for facts in inventory(self._cluster.devices())]))
            self._journal.tell(f"{len(names)} devices of the cluster: {', '.join(names)}", recorded=True)

    def _lease_devices(self) -> None:
        if self._leases is not None:
            return
        told = ""
        while self._leases is None:
            try:
                self._leases = self._open.enter_context(DeviceLeases(self._plan.devices, self._settings.leases))
            except DeviceInUse as refusal:
                if not self._options.wait_for_devices:
                    raise
                if str(refusal) != told:
                    told = str(refusal)
                    self._journal.tell(told)
                time.sleep(LOOK_AGAIN_SECONDS)
        found = inventory(self._plan.devices)
        self._journal.record(DevicesFound([asdict(facts) for facts in found]))
        for facts in found:
            self._journal.tell(describe(facts), recorded=True)
