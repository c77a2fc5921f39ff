"""Finds the engine of each placement, and lists which partitions are held. Pure."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from partitiond.controller.runtime.engines import Engine
from partitiond.controller.runtime.routes import RoutedEngine
from partitiond.core.hardware.hosts import on_each_host
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import Partition
from partitiond.core.numbers.grouping import grouped
from partitiond.core.plan.record import Placement, same_engine
from partitiond.core.replica.device_room import holds
from partitiond.core.replica.observation import HOPELESS_FAILURES, ObservedReplica
from partitiond.core.replica.states import ReplicaState

_COMING: Final = frozenset({ReplicaState.STARTING, ReplicaState.WAKING})
_LEAVING: Final = frozenset({ReplicaState.DRAINING, ReplicaState.STOPPING})


def held(
    desired: Sequence[Placement],
    engines: Sequence[Engine],
    asleep: Collection[str],
    name_for: Callable[[Placement], str],
) -> tuple[tuple[str, Partition], ...]:
    """Return (name, partition) of live engines, and of wanted placements that have none.

    A sleeper holds its sleeping footprint; it is promised nothing until it is to wake.
    """
    live = [(engine.name, holds(engine.observed())) for engine in engines if engine.live]
    running = by_replica(engine for engine in engines if engine.live)
    # A replica that moves holds two partitions: the one it runs on, and the one it moves to.
    coming = [
        (name_for(p), p.partition)
        for p in desired
        if p.model not in asleep
        and not any(is_engine_of(engine, p) for engine in running.get(p.replica_id, ()))
    ]
    return (*live, *coming)


def by_replica(engines: Iterable[Engine]) -> dict[str, list[Engine]]:
    """Group engines by the id of the replica that they run, in their order."""
    return grouped(engines, lambda engine: engine.placement.replica_id)


def first_starts(
    engines: Iterable[Engine], devices: Sequence[Device]
) -> dict[str, tuple[str, ...]]:
    """Return by host the names of engines that start or wake and did not fail to again and again.

    Profile jobs on that host wait for them: each start ends within its deadline, and an engine that
    never comes counts as hopeless after a few starts.
    """
    coming = [
        engine
        for engine in engines
        if engine.state in _COMING and engine.failed_starts < HOPELESS_FAILURES
    ]
    there = on_each_host(devices, coming, lambda engine: engine.placement.device_id)
    return {host: tuple(sorted(one.name for one in own)) for host, own in there.items()}


def own_engine(placement: Placement, engines: Sequence[Engine]) -> Engine | None:
    """Return the engine of just this placement that stays, or the record for its next start."""
    return next(
        (e for e in engines if e.state not in _LEAVING and is_engine_of(e, placement)), None
    )


def is_engine_of(engine: Engine, placement: Placement) -> bool:
    """Whether the engine is of just this placement, whatever its state."""
    own = engine.placement
    return own.replica_id == placement.replica_id and same_engine(own, placement)


def routed(engine: Engine, observed: ObservedReplica) -> RoutedEngine:
    """Return what routing needs of an engine, which was observed just now."""
    handle, report = engine.handle, engine.report
    return RoutedEngine(
        observed=observed,
        name=engine.name,
        socket_path=handle.socket_path if handle is not None else "",
        kv_cache_tokens=report.kv_cache_tokens if report is not None else 0,
        max_model_len=handle.launch.max_model_len if handle is not None else 0,
        host=handle.host if handle is not None else "",
    )


FlightCounts = Mapping[str, Mapping[str, int] | None]
"""Requests in flight by host, and by name; None for a host whose proxy cannot say."""


def flights_of(engine: Engine, counts: FlightCounts) -> int | None:
    """Return the requests in flight at an engine; None if the proxy of its host cannot say.

    An engine that was found under a name that another host's engine has was given another one: what
    it was sent before counts under the name that it was started with.
    """
    told = counts.get(engine.host)
    if told is None:
        return None
    names = {engine.name, engine.identity[1]}
    return sum(told.get(name, 0) for name in names)
