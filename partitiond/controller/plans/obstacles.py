"""Finds the models that cannot run now: gathers the facts that `core.replica.obstacles` decides
from.

Plans leave such models out, the loop starts no engine of them, and people see the reason. When
the list changes, plans are made again.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.loop import Controller
from partitiond.controller.runtime.watching import ModelFiles
from partitiond.core.errors import EngineUnavailableError, SilentError
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Placement, form_key
from partitiond.core.profile.jobs import Job, JobState
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.replica.observation import HOPELESS_FAILURES
from partitiond.core.replica.obstacles import (
    READY,
    Facts,
    FailedStarts,
    Obstacle,
    ObstacleKind,
    failed_starts,
    obstacle_of,
    profile_failed,
)
from partitiond.core.replica.releases import release_of
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.ports import Clock
from partitiond.store import Store

ENGINE_SECONDS: Final = 5.0
"""Longest look for the engine, for which the start of a daemon waits. It takes milliseconds."""


def failed_profiles(
    records: Sequence[ModelRecord],
    profiles: Callable[[str], Sequence[Profile]],
    jobs: Sequence[Job],
    planned: Collection[str],
) -> dict[str, Obstacle]:
    """Return obstacles of models whose profile failed, with nothing measured or applied, by name.

    Args:
        profiles: returns the best profiles of a model.
        jobs: newest first.
        planned: as `ObstacleUseCases.planned`.
    """
    newest = {job.subject: job for job in reversed(jobs) if job.kind == "profile"}
    failed = {name: job for name, job in newest.items() if job.state is JobState.FAILED}
    return {
        name: profile_failed(name, failed[name].id, failed[name].error, failed[name].updated_at)
        for name in (record.spec.name for record in records)
        if name in failed and name not in planned
        if all(profile.kind is ProfileKind.ESTIMATED for profile in profiles(name))
    }


class ObstacleUseCases:
    """Knows what keeps models from running.

    Attributes:
        present: the obstacle of each model that has one, by name, without the obstacles of failed
            profiles (`failed_profiles` finds these).

    Args:
        engine_problem: returns why no engine of the kind "vllm" can start, or None; may do I/O.
        seconds: pause between two checks whether the engine is available.
        changed: called when the list changed.
        measure: called with the name of a model whose engine has become available.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        journal: Journal,
        controller: Controller,
        files: ModelFiles,
        engine_problem: Callable[[], EngineUnavailableError | None],
        seconds: float,
        changed: Callable[[], None],
        measure: Callable[[str], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._journal = journal
        self._controller = controller
        self._files = files
        self._look_for_engine = engine_problem
        self._looks = DeadlineCalls(ENGINE_SECONDS)
        self._seconds = seconds
        self._changed = changed
        self._measure = measure
        self._engine: EngineUnavailableError | None = None
        self._unstarted: tuple[FailedStarts, ...] = ()
        self._started_at: dict[str, float] = {}
        self.present: Mapping[str, Obstacle] = {}
        self._releases: dict[tuple[str, str], tuple[ModelSpec, str]] = {}
        self._planned_before: frozenset[str] = frozenset()

    @property
    def engine_problem(self) -> str:
        """Why no engine of the kind "vllm" can start, as last seen; empty if one can."""
        return str(self._engine or "")

    @property
    def planned(self) -> frozenset[str]:
        """The models of the applied plan, and those that were planned when their obstacle appeared:
        what took them out of the plan must bring them back once the obstacle is gone.
        """
        return self._planned_before | {placement.model for placement in self._controller.desired}

    async def refresh(self) -> None:
        """Look for the engine now; where its files do not answer, what was known before holds."""
        with contextlib.suppress(SilentError):
            self._engine = await self._looks.look("the engine's files", self._look_for_engine)

    async def run(self) -> None:
        """Look for the engine again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._seconds)

    def withheld(self, placement: Placement) -> bool:
        """Whether an obstacle forbids starting an engine of a placement."""
        obstacle = self.present.get(placement.model)
        candidate = placement.candidate
        return obstacle is not None and obstacle.covers(candidate.variant, candidate.hardware)

    def failed_before(self, placement: Placement) -> int:
        """Return the failed starts that count from before: a failed form gets one more try."""
        place = placement.model, placement.candidate.variant, placement.candidate.hardware
        known = {(one.model, one.variant, one.hardware) for one in self._unstarted}
        return HOPELESS_FAILURES if place in known else 0

    def of(self, spec: ModelSpec) -> Obstacle | None:
        """Return what would keep a model from running if it were registered with this spec."""
        registered = {record.spec.name: record.spec for record in self._store.models()}
        known = self.present.get(spec.name)
        same = registered.get(spec.name)
        if known is not None and same is not None and release_of(same) == release_of(spec):
            return known
        facts = Facts(engine=self._engine_of(spec))
        return obstacle_of(spec.name, facts, self._clock.monotonic(), self._clock.utc_iso())

    def started(self, model: str) -> None:
        """Note that an engine of the model started, as a profile shows; reset its failures."""
        self._started_at[model] = self._clock.monotonic()

    def now(self) -> Mapping[str, Obstacle]:
        """Find them now, and return `present`."""
        self.find()
        return self.present

    def find(self) -> None:
        """Find what keeps each model from running now; called after each pass of the loop."""
        specs = {record.spec.name: record.spec for record in self._store.models()}

        def present_release(model: str, variant: str) -> str | None:
            spec = specs.get(model)
            listed = spec is not None and (
                not variant or any(v.name == variant for v in spec.variants)
            )
            return self._release(spec, variant) if spec is not None and listed else None

        engines = [engine.observed() for engine in self._controller.engines]
        now = self._clock.utc_iso()
        self._unstarted = failed_starts(
            self._unstarted, engines, present_release, now, self._started_at
        )
        ready: dict[str, set[str]] = {}
        for engine in engines:
            if engine.state in READY:
                forms = ready.setdefault(engine.placement.model, set())
                forms.add(engine.placement.candidate.variant)
        found = {
            name: obstacle
            for name, spec in specs.items()
            if (obstacle := self._obstacle(spec, frozenset(ready.get(name, ())), now)) is not None
        }
        desired = {placement.model for placement in self._controller.desired}
        kept = (self._planned_before - ready.keys()) & specs.keys()
        self._planned_before = kept | (desired & found.keys())
        self._take(found, specs)

    def _release(self, spec: ModelSpec, variant: str) -> str:
        """Return the digest of a listed form, memoised while the specification stays the same."""
        key = spec.name, variant
        known = self._releases.get(key)
        if known is None or known[0] is not spec:
            known = self._releases[key] = spec, release_of(spec.as_variant(variant))
        return known[1]

    def _obstacle(self, spec: ModelSpec, ready: frozenset[str], now: str) -> Obstacle | None:
        facts = Facts(
            ready=ready,
            engine=self._engine_of(spec),
            unfetched=self._unfetched(spec),
            unstarted=tuple(one for one in self._unstarted if one.model == spec.name),
        )
        found = obstacle_of(spec.name, facts, self._clock.monotonic(), now)
        before = self.present.get(spec.name)
        if found is None or before is None or not _alike(before, found):
            return found
        # While files are fetched again no reason is known for them: the last reason stays.
        return dataclasses.replace(found, since=before.since, reason=found.reason or before.reason)

    def _engine_of(self, spec: ModelSpec) -> tuple[str, str] | None:
        if spec.engine_kind != "vllm" or self._engine is None:
            return None
        return self._engine.message, self._engine.hint.replace(" NAME ", f" {spec.name} ")

    def _unfetched(self, spec: ModelSpec) -> dict[str, str]:
        """Return why files could not be fetched, by variant; their fetches are tried again."""
        found = {}
        for variant in ("", *(v.name for v in spec.variants)):
            form = form_key(spec.name, variant)
            if self._files.failures.get(form, 0) < HOPELESS_FAILURES:
                continue
            if self._files.get(spec.as_variant(variant), form) is None:
                found[variant] = self._files.problems.get(form, "")
        return found

    def _take(self, found: Mapping[str, Obstacle], specs: Mapping[str, ModelSpec]) -> None:
        before, self.present = self.present, found
        gone = [obstacle for name, obstacle in before.items() if name not in found]
        came = [
            obstacle
            for name, obstacle in found.items()
            if name not in before or not _alike(before[name], obstacle)
        ]
        for obstacle in came:
            self._journal.note("model-obstructed", obstacle.model, str(obstacle))
        for obstacle in gone:
            if obstacle.model not in specs:
                continue
            self._journal.note("model-unobstructed", obstacle.model, "it can be planned again.")
            if obstacle.kind is ObstacleKind.ENGINE_ABSENT:
                self._measure(obstacle.model)
        if came or gone:
            self._changed()


def _alike(one: Obstacle, other: Obstacle) -> bool:
    return (one.kind, one.places) == (other.kind, other.places)
