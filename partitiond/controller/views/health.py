"""Says whether the daemon is ready, and shows its metrics."""

import asyncio
from collections.abc import Mapping

from partitiond.controller.demand.scaling import Scaling
from partitiond.controller.demand.traffic import TrafficWatch
from partitiond.controller.drift.use_cases import DriftUseCases
from partitiond.controller.journal import Journal
from partitiond.controller.plans.chain import Chain
from partitiond.controller.plans.obstacles import ObstacleUseCases
from partitiond.controller.profiles.jobs import JobQueue
from partitiond.controller.runtime.loop import Controller
from partitiond.controller.runtime.proxy_process import Endpoint
from partitiond.controller.runtime.watching import DeviceWatch
from partitiond.controller.views.overview import OverviewUseCases
from partitiond.metrics.exposition import Metrics
from partitiond.metrics.snapshot import MetricsSnapshot
from partitiond.store import Store


class Readiness:
    """Knows whether the daemon is ready."""

    def __init__(
        self,
        *,
        store: Store,
        journal: Journal,
        endpoint: Endpoint,
        devices: DeviceWatch,
        controller: Controller,
        chain: Chain,
        obstacles: ObstacleUseCases,
    ) -> None:
        self._store = store
        self._journal = journal
        self._endpoint = endpoint
        self._devices = devices
        self._controller = controller
        self._chain = chain
        self._obstacles = obstacles

    def problems(self) -> Mapping[str, str]:
        """Return what is not ready, by part; empty if the daemon is ready."""
        # A missing engine is said of each model; it counts here if no model uses another.
        kinds = {record.spec.engine_kind for record in self._store.models()}
        parts = {
            "loop": self._controller.problem or self._controller.stalled,
            "proxy": self._endpoint.problem,
            "store": self._store.problem or self._journal.problem,
            "devices": self._devices.trouble,
            "head": self._devices.overtaken,
            "planner": self._chain.problem,
            "engine": self._obstacles.engine_problem if kinds == {"vllm"} else "",
        }
        return {part: problem for part, problem in parts.items() if problem}


class MetricsText:
    """Shows the control plane's metrics with those of the proxy."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        endpoint: Endpoint,
        controller: Controller,
        jobs: JobQueue,
        traffic: TrafficWatch,
        overview: OverviewUseCases,
        drift: DriftUseCases,
        scaling: Scaling,
    ) -> None:
        self._metrics = metrics
        self._endpoint = endpoint
        self._controller = controller
        self._jobs = jobs
        self._traffic = traffic
        self._overview = overview
        self._drift = drift
        self._scaling = scaling

    async def text(self) -> str:
        """All metrics, as Prometheus text."""
        shown = MetricsSnapshot(
            overview=await self._overview.overview(),
            plan=self._controller.plan,
            sample=self._traffic.latest,
            drift=self._drift.report(),
            scaling=tuple(self._scaling.views()),
        )
        text = await self._endpoint.metrics_text()
        seen = self._overview.replicas(), self._jobs.jobs()
        return await asyncio.to_thread(self._metrics.text, *seen, text, shown)
