"""Which engine is whose, and who holds what. Pure."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from partitiond.controller.engines import Engine
from partitiond.controller.routes import RoutedEngine
from partitiond.core.device_room import holds
from partitiond.core.grouping import grouped
from partitiond.core.observation import HOPELESS_FAILURES
from partitiond.core.partition import Partition
from partitiond.core.plan import Placement, same_engine
from partitiond.core.replica import ReplicaState

_COMING: Final = frozenset({ReplicaState.STARTING, ReplicaState.WAKING})
_LEAVING: Final = frozenset({ReplicaState.DRAINING, ReplicaState.STOPPING})


def held(
    desired: Sequence[Placement],
    engines: Sequence[Engine],
    asleep: Collection[str],
    name_for: Callable[[Placement], str],
) -> tuple[tuple[str, Partition], ...]:
    """Who holds, or was promised, which partition: live engines and wanted placements.

    A sleeper holds what it holds asleep; it is promised nothing until it is to wake.
    """
    live = [(engine.name, holds(engine.observed())) for engine in engines if engine.live]
    running = by_replica(engine for engine in engines if engine.live)
    # A replica that moves holds two: what it runs on, and where it goes.
    coming = [
        (name_for(p), p.partition)
        for p in desired
        if p.model not in asleep
        and not any(is_engine_of(engine, p) for engine in running.get(p.replica_id, ()))
    ]
    return (*live, *coming)


def by_replica(engines: Iterable[Engine]) -> dict[str, list[Engine]]:
    """Engines by the id of the replica that they run, in their order."""
    return grouped(engines, lambda engine: engine.placement.replica_id)


def first_starts(engines: Sequence[Engine]) -> tuple[str, ...]:
    """Names of engines that start or wake and have not failed to again and again, sorted.

    Profile jobs wait for them: each ends within its deadline, and one that never comes counts as
    hopeless after a few.
    """
    return tuple(
        sorted(
            engine.name
            for engine in engines
            if engine.state in _COMING and engine.failed_starts < HOPELESS_FAILURES
        )
    )


def own_engine(placement: Placement, engines: Sequence[Engine]) -> Engine | None:
    """The engine of just this placement that stays, or the record that its next start takes up."""
    return next(
        (e for e in engines if e.state not in _LEAVING and is_engine_of(e, placement)), None
    )


def is_record_of(engine: Engine, placement: Placement) -> bool:
    """An ended engine of just this placement, whose failures the next start takes over."""
    return not engine.live and is_engine_of(engine, placement)


def is_engine_of(engine: Engine, placement: Placement) -> bool:
    """An engine of just this placement, whatever its state."""
    own = engine.placement
    return own.replica_id == placement.replica_id and same_engine(own, placement)


def routed(engine: Engine) -> RoutedEngine:
    """An engine as far as routing goes."""
    handle, report = engine.handle, engine.report
    return RoutedEngine(
        observed=engine.observed(),
        name=engine.name,
        socket_path=handle.socket_path if handle is not None else "",
        kv_cache_tokens=report.kv_cache_tokens if report is not None else 0,
        max_model_len=handle.launch.max_model_len if handle is not None else 0,
        broken=engine.broken,
    )
