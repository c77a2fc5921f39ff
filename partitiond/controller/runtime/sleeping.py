"""Puts models to sleep and wakes them, as people, requests or idle rules demand.

The wanted state is a mark in the store (`core.replica.sleep.MARK`); the loop brings the engines
there. A mark that the store refuses counts all the same, and is stored once it can be: nobody waits
for a disk to be woken. `core.replica.sleep` takes the decisions.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence

from partitiond.controller.journal import Journal
from partitiond.controller.limits import ControllerPolicy
from partitiond.controller.runtime.engine_matching import by_replica
from partitiond.controller.runtime.engines import Engine
from partitiond.controller.runtime.proxy_process import Endpoint
from partitiond.core.errors import ConflictError, InputError, PartitiondError, StoreError
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec, SourceKind, Weights
from partitiond.core.plan.record import Placement, same_engine
from partitiond.core.replica.observation import HOPELESS_FAILURES
from partitiond.core.replica.sleep import (
    LEVELS,
    MARK,
    STOPPED,
    Traffic,
    idle_rules,
    level_of,
    scales_to_zero,
    to_put_to_sleep,
    to_stop,
    to_wake,
    waited_for,
)
from partitiond.core.replica.states import ReplicaState
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.ports import Clock
from partitiond.store import Store

log = logging.getLogger(__name__)


def serving_since(desired: Sequence[Placement], engines: Sequence[Engine]) -> Mapping[str, float]:
    """Return when the last wanted replica of each model began to serve, monotonic seconds.

    Models with a wanted replica that does not serve are left out. If that replica failed again and
    again, the time is -inf: the replica is not waited for any more.
    """
    found: dict[str, float] = {}
    of_replica = by_replica(engines)
    for placement in desired:
        own = of_replica.get(placement.replica_id, ())
        since = [
            e.since
            for e in own
            if e.state is ReplicaState.SERVING and same_engine(e.placement, placement)
        ]
        never = -math.inf if any(given_up(e) for e in own) else math.inf
        before = found.get(placement.model, -math.inf)
        found[placement.model] = max(before, min(since, default=never))
    return {model: since for model, since in found.items() if since < math.inf}


def given_up(engine: Engine) -> bool:
    """Whether a replica failed so often in a row that it is not expected to serve any more."""
    return engine.state is not ReplicaState.SERVING and engine.failures >= HOPELESS_FAILURES


def waited_models(
    records: Sequence[ModelRecord], asleep: Mapping[str, int], engines: Sequence[Engine]
) -> frozenset[str]:
    """Models that requests wait for although no replica exists; see
    `core.replica.sleep.waited_for`."""
    serving = {engine.placement.model for engine in engines if engine.state is ReplicaState.SERVING}
    return waited_for((record.spec for record in records), asleep, serving)


def check_may_sleep(spec: ModelSpec, level: int, asleep: int) -> None:
    """Check that a model may be put to sleep at a level.

    Args:
        asleep: the level at which it sleeps already; 0 if it is awake.

    Raises:
        InputError: there is no such level.
        ConflictError: it has no sleep mode, no weights to read again, or sleeps at another level.
    """
    if level not in LEVELS:
        raise InputError(
            f"there is no level {level} of sleep.",
            hint="1 keeps the weights in host memory, 2 reads them again on waking.",
        )
    if not spec.engine.sleep_mode:
        raise ConflictError(
            f"{spec.name} has no sleep mode.",
            hint=f"Switch it on with `partitiond models update {spec.name} --sleep-mode`; "
            "replicas have it from their next start on.",
            facts={"model": spec.name},
        )
    random = spec.weights is Weights.DUMMY or spec.source.kind is SourceKind.CONFIG
    if level == 2 and random and spec.engine_kind == "vllm":
        raise ConflictError(
            f"{spec.name} has random weights, which cannot be read again.",
            hint="Use level 1, which keeps them in host memory.",
            facts={"model": spec.name},
        )
    if asleep not in (0, level):
        raise ConflictError(
            f"{spec.name} is asleep at level {asleep} already.",
            hint=f"Wake it first, with `partitiond models sleep {spec.name} --wake`.",
            facts={"model": spec.name, "level": asleep},
        )


class SleepController:
    """Keeps the marks, and looks in the background which models are to wake or may fall asleep.

    Args:
        changed: called with a model that was put to sleep or woken, and whether it sleeps now.
        make_room: called with the models that are to wake and the seconds that their requests have
            waited; returns those that have room, or get it from others. The rest waits; only models
            that cannot be stopped for others wake anyway.
        overtaken: returns why nothing may be put to sleep or woken, as another control plane has
            taken over: what falls asleep could not be woken. Empty if it may.

    Attributes:
        levels: level by model that is to sleep.
        traffic: the proxy's last answer.
    """

    def __init__(
        self,
        *,
        store: Store,
        endpoint: Endpoint,
        clock: Clock,
        journal: Journal,
        policy: ControllerPolicy,
        wake: Callable[[], None],
        changed: Callable[[str, bool], None],
        make_room: Callable[[Mapping[str, float]], frozenset[str]],
        overtaken: Callable[[], str] = str,
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._clock = clock
        self._journal = journal
        self._policy = policy
        self._wake_loop = wake
        self.levels: Mapping[str, int] = {}
        self._unsaved: dict[str, str | None] = {}
        """Marks that the store does not have yet; None for one that it is to lose."""
        self._changed = changed
        self._make_room = make_room
        self._overtaken = overtaken
        self.traffic: Mapping[str, Traffic] = {}
        self._waits_since: Mapping[str, float] = {}
        self.refresh()

    def refresh(self) -> Mapping[str, int]:
        """Store the marks that are not stored yet, if that is possible; return what is marked."""
        with contextlib.suppress(StoreError):  # readiness names the store
            for model, mark in tuple(self._unsaved.items()):
                self._store.set_mark(MARK, model, mark, self._clock.utc_iso())
                del self._unsaved[model]
        marks = {**self._store.marks(MARK), **self._unsaved}
        self.levels = {model: level_of(value) for model, value in marks.items() if value}
        return self.levels

    def put_to_sleep(self, model: str, level: int, why: str) -> None:
        """Mark a model to sleep from now on."""
        self._mark(model, str(level))
        reached(FaultPoint.SLEEP_MARKED)
        if level == STOPPED:
            self._journal.note("model-scaled-to-zero", model, f"{why}.")
        else:
            self._journal.note("model-sleeps", model, f"{why}; level {level}.")
        self._after(model, asleep=True)

    def wake(self, model: str, why: str) -> None:
        """Mark a model to be awake from now on."""
        self._mark(model, None)
        reached(FaultPoint.WAKE_MARKED)
        self._journal.note("model-wakes", model, f"{why}.")
        self._after(model, asleep=False)

    def wake_as_asked(self, model: str) -> None:
        """Wake a model on request, with or without room: idle models make room if they can."""
        self._make_room({model: 0.0})
        self.wake(model, "as asked")

    def registered(self, spec: ModelSpec) -> None:
        """Put a new model that scales to zero there: its first request starts it."""
        if scales_to_zero(spec):
            self.put_to_sleep(spec.name, STOPPED, "registered; its first request starts it")

    def forget(self, model: str) -> None:
        """Remove the mark of a model that is gone."""
        if model in self.refresh():
            self._store.set_mark(MARK, model, None, self._clock.utc_iso())
            self._unsaved.pop(model, None)
            self.refresh()

    def _mark(self, model: str, mark: str | None) -> None:
        self._unsaved[model] = mark
        self.refresh()

    def _after(self, model: str, *, asleep: bool) -> None:
        self._changed(model, asleep)
        self._wake_loop()

    async def run(self, serving_since: Callable[[], Mapping[str, float]]) -> None:
        """Look periodically until cancelled.

        Args:
            serving_since: returns when the last replica of each model began to serve, monotonic
                seconds, for models that are all there.
        """
        while True:
            try:
                await self.look(serving_since)
            except PartitiondError as error:
                log.warning("cannot see who waits for sleeping models: %s", error)
            except Exception:
                # One defect must not leave all models asleep for good.
                log.exception("the watch over sleeping models broke")
            quick = self.levels and self._policy.wake_on_request
            await asyncio.sleep(
                self._policy.wake_poll_seconds if quick else self._policy.idle_poll_seconds
            )

    async def look(self, serving_since: Callable[[], Mapping[str, float]]) -> None:
        """Wake models that requests wait for; put models to sleep that were idle long enough."""
        if self._overtaken():
            return
        specs = [record.spec for record in self._store.models()]
        rules = {spec.name: found for spec in specs if (found := idle_rules(spec))}
        if not rules and not (self.levels and self._policy.wake_on_request):
            return
        traffic = await self._endpoint.traffic()
        if traffic is None:
            return
        self.traffic = traffic
        levels, now = self.refresh(), self._clock.monotonic()
        zero = {spec.name for spec in specs if scales_to_zero(spec)}
        if self._policy.wake_on_request:
            waiting = to_wake(levels, traffic, self._waits_since)
            self._waits_since = {model: self._waits_since.get(model, now) for model in waiting}
            room = self._make_room({m: now - since for m, since in self._waits_since.items()})
            for model in waiting:
                if model in room or model not in zero:
                    self.wake(model, "a request waits for it")
        serving = {
            model: now - since
            for model, since in serving_since().items()
            # A model that was given up goes to zero if it may: its next request tries it again.
            if since > -math.inf or model in zero
        }
        first = {model: found[0] for model, found in rules.items()}
        after = {model: seconds for model, (_, seconds) in first.items()}
        for model in to_put_to_sleep(after, traffic, serving, self.levels):
            self.put_to_sleep(model, first[model][0], f"no request for {after[model]:g} s")
        stops = {m: seconds for m, found in rules.items() for level, seconds in found[1:]}
        for model in to_stop(stops, traffic, self.levels):
            self.put_to_sleep(model, STOPPED, f"no request for {stops[model]:g} s")
        for spec in specs:
            if self.levels.get(spec.name) == STOPPED and not scales_to_zero(spec):
                self.wake(spec.name, "it does not scale to zero any more")
