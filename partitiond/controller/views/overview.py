"""Makes the overview that `GET /overview` gives and the dashboard shows."""

import asyncio
import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from partitiond import __version__
from partitiond.controller.plans.derived import Derivations
from partitiond.controller.plans.situation import Situation
from partitiond.controller.profiles.targets import BestProfiles
from partitiond.controller.views.parts import device_overviews, model_overviews, replica_overview
from partitiond.controller.views.records import PlacedView
from partitiond.core.demand.traffic import TrafficWindow
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.details import DeviceReading
from partitiond.core.hardware.host_state import HostView
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import MemoryShare
from partitiond.core.model.record import ModelRecord
from partitiond.core.numbers.grouping import grouped
from partitiond.core.performance.interference import DEFAULT as INTERFERENCE
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import Job, JobState
from partitiond.core.profile.record import Profile
from partitiond.core.replica.convergence import NOTHING_APPLIED, Convergence
from partitiond.core.views.lists import ModelView, ReplicaView
from partitiond.core.views.overview import WINDOW_SECONDS, Overview, ReplicaOverview
from partitiond.planner.check.figures import levels_of
from partitiond.ports import Clock, DeviceGauges
from partitiond.store import Store

GAUGE_SECONDS: Final = 1.0
"""Least time between two reads of the devices, however many callers look."""
JOBS_SHOWN: Final = 40
"""Running jobs come first, then the newest; `GET /jobs` has them all."""

Words = Callable[[str], str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Sources of an overview; each is asked when an overview is made.

    Attributes:
        placed: every engine, pending ones included, with the placement it runs for.
        problems: what is not ready, by part.
        waiting_plan: id of the plan that waits for `apply`.
        derivations: shared with plans, which have derived already what they use.
        convergence: how far the applied plan is.
        drift: of an engine, in one sentence; empty if it does what was predicted.
        forecasts: requests/s that autoscaling expects, by model; None, or no entry, if autoscaling
            ignores the model.
        hosts: of the fleet.
    """

    store: Store
    clock: Clock
    devices: Callable[[], Sequence[Device]]
    plan: Callable[[], Plan | None]
    models: Callable[[], Sequence[ModelView]]
    placed: Callable[[], Sequence[PlacedView]]
    jobs: Callable[[], Sequence[Job]]
    window: Callable[[float], TrafficWindow]
    waiting_plan: Callable[[], str]
    problems: Callable[[], Mapping[str, str]]
    derivations: Derivations
    convergence: Callable[[], Convergence] = lambda: NOTHING_APPLIED
    gauges: DeviceGauges | None = None
    drift: Words = lambda _: ""
    forecasts: Callable[[], Mapping[str, float | None]] = dict
    hosts: Callable[[], Sequence[HostView]] = tuple


class OverviewUseCases:
    """Makes overviews: one look at everything.

    Attributes:
        sources: callers that know more replace a part of it (`dataclasses.replace`).
    """

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self._readings: Mapping[str, DeviceReading] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._own = BestProfiles(sources.store.profiles)

    async def overview(self, window_seconds: float = WINDOW_SECONDS) -> Overview:
        """Everything at this moment, rates and means over the last `window_seconds`."""
        given = self.sources
        readings = await self._gauges()
        models = given.models()
        await asyncio.sleep(0)  # other tasks have a turn: over many hosts each part takes a while
        plan, devices = given.plan(), tuple(given.devices())
        profiles = await self._best([view.record for view in models], devices, plan)
        window, expected = given.window(window_seconds), dict(given.forecasts())
        placed = self._replicas(devices, plan, window)
        hosts = tuple(given.hosts())
        jobs = sorted(given.jobs(), key=lambda job: job.state is not JobState.RUNNING)
        await asyncio.sleep(0)
        convergence = given.convergence()
        await asyncio.sleep(0)
        shown = Overview(
            at=given.clock.utc_iso(),
            version=__version__,
            window_seconds=window.seconds,
            devices=device_overviews(devices, placed, readings),
            models=(),
            replicas=tuple(placed),
            jobs=tuple(jobs[:JOBS_SHOWN]),
            plan_id=plan.id if plan is not None else "",
            waiting_plan_id=given.waiting_plan(),
            problems=tuple(sorted(given.problems().items())),
            last_event=max((event.id for event in given.store.events(0, 1)), default=0),
            convergence=convergence,
            hosts=hosts if len(hosts) > 1 else (),
        )
        # In a thread: the figures of some hundred models, made from values that do not change.
        overviews = await asyncio.to_thread(
            model_overviews,
            models,
            plan=plan,
            replicas=placed,
            window=window,
            profiles=profiles,
            expected=expected,
        )
        return dataclasses.replace(shown, models=overviews)

    def replicas(self) -> Sequence[ReplicaView]:
        """All engines, with pending ones, and stopped and failed ones that are still wanted."""
        return tuple(placed.view for placed in self.sources.placed())

    def _replicas(
        self, devices: Sequence[Device], plan: Plan | None, window: TrafficWindow
    ) -> list[ReplicaOverview]:
        views = self.sources.placed()
        levels = levels_of(plan.placements if plan else (), INTERFERENCE)
        known = grouped(devices, lambda device: device.id)
        sliced = collections.Counter(  # running ones take turns, and so will pending ones
            (v.view.device_id, v.holds is not None)
            for v in views
            if isinstance(v.view.partition, MemoryShare)
        )
        return [
            replica_overview(
                view,
                known.get(view.view.device_id, ()),
                levels,
                measured=window.replicas.get(view.view.engine),
                drift=self.sources.drift,
                time_sliced=sliced[view.view.device_id, view.holds is not None],
            )
            for view in views
        ]

    async def _gauges(self) -> Mapping[str, DeviceReading]:
        gauges = self.sources.gauges
        if gauges is None:
            return {}
        async with self._reading:  # many callers may look at once; one of them reads
            now = self.sources.clock.monotonic()
            if now - self._read_at >= GAUGE_SECONDS:
                self._readings = await asyncio.to_thread(gauges.read)
                self._read_at = now
        return self._readings

    async def _best(
        self, records: Sequence[ModelRecord], devices: Sequence[Device], plan: Plan | None
    ) -> dict[str, tuple[Profile, ...]]:
        """Return the best profiles by model; on a GPU, with the derived profiles that the plan's
        partitions use."""
        own = {record.spec.name: self._own.of(record.spec) for record in records}
        placed = grouped(plan.wanted if plan is not None else (), lambda place: place.model)
        used = {
            name: {p.candidate.profile_id for p in placed.get(name, ())} - {p.id for p in profiles}
            for name, profiles in own.items()
        }
        derived_from = tuple(record for record in records if used[record.spec.name])
        situation = Situation(derived_from, tuple(own.items()), tuple(devices), running=())
        now = self.sources.clock.utc_iso()
        try:
            wider, _ = await self.sources.derivations.widened(situation, now)
        except PartitiondError:
            return own  # the plots of partitions are missing; everything else is shown
        for name, profiles in wider.profiles:
            own[name] = (*own[name], *(one for one in profiles if one.id in used[name]))
        return own
