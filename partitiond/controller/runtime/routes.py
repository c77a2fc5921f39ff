"""Makes the proxy's routing table from specs and engines: which engines may get requests. Pure."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from partitiond.core.dispatch import routing
from partitiond.core.dispatch.routing import (
    KeyRoute,
    ModelAvailability,
    ModelRoute,
    ReplicaRoute,
    RoutingTable,
)
from partitiond.core.instants import unix_seconds
from partitiond.core.keys.record import KeyRecord
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.request_options import defaults_json
from partitiond.core.model.spec import ModelSpec
from partitiond.core.numbers.grouping import grouped
from partitiond.core.plan.record import Placement
from partitiond.core.profile.jobs import AwaitedLook
from partitiond.core.replica.observation import HOPELESS_FAILURES, ObservedReplica
from partitiond.core.replica.states import ReplicaState

_NEVER: Final[Mapping[str, float]] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class RoutedEngine:
    """The properties of an engine with a socket that matter for routing.

    Attributes:
        name: unique among running engines; the proxy's name for it.
        kv_cache_tokens: from its report; 0 if unknown.
        max_model_len: what it was started with, in tokens.
        host: host that it runs on.
    """

    observed: ObservedReplica
    name: str
    socket_path: str
    kv_cache_tokens: int
    max_model_len: int
    host: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RoutePolicy:
    """Limits at the proxy, from the settings.

    Attributes:
        starting_retry_after_seconds: told while a model starts, or would have to, whose starts were
            never measured.
        wake_on_request: whether a request for a sleeping model waits, and wakes the model.
        zero_wait_seconds: longest wait for a model at zero; `max_wait_seconds` if that is more.
        keys_stale_seconds: an endpoint that hears nothing for so long refuses all keys; 0: never.
    """

    max_queue: int = 256
    max_wait_seconds: float = 30.0
    starting_retry_after_seconds: float = 30.0
    waking_retry_after_seconds: float = 5.0
    wake_on_request: bool = True
    keys_required: bool = False
    zero_wait_seconds: float = 120.0
    keys_stale_seconds: float = 0.0


def service_seconds(placement: Placement, spec: ModelSpec) -> float:
    """Return the expected time of a request at the operating point: TTFT + (outputs - 1) x TPOT."""
    candidate = placement.candidate
    return routing.service_seconds(
        candidate.ttft_p95_seconds, candidate.tpot_p95_seconds, spec.workload.output_tokens
    )


AT_REST: Final = frozenset(
    {
        ReplicaState.QUIESCING,
        ReplicaState.FALLING_ASLEEP,
        ReplicaState.SLEEPING,
        ReplicaState.WAKING,
    }
)


def availability_of(
    model: str,
    desired: Sequence[Placement],
    engines: Sequence[RoutedEngine],
    asleep: Collection[str] = (),
    waited_for: Collection[str] = (),
    *,
    ending: bool = False,
) -> ModelAvailability:
    """Return what the proxy answers while no replica can take a request.

    Args:
        asleep: models that are to sleep.
        waited_for: models whose requests wait, planned or not (`core.replica.sleep.waited_for`).
        ending: whether the daemon ends, and all engines with it.
    """
    own = [engine for engine in engines if engine.observed.placement.model == model]
    if any(_serves(engine) for engine in own):
        return ModelAvailability.SERVING
    if ending:
        return ModelAvailability.ENDING
    planned = any(p.model == model for p in desired)
    resting = any(e.observed.state in AT_REST for e in own)
    if planned and (resting or model in asleep):
        return ModelAvailability.SLEEPING
    hopeless = {
        engine.observed.replica_id
        for engine in own
        if engine.observed.state is ReplicaState.FAILED
        and engine.observed.failures >= HOPELESS_FAILURES
    }
    if model in waited_for and not hopeless:
        return ModelAvailability.SLEEPING
    coming = any(p.model == model and p.replica_id not in hopeless for p in desired)
    return ModelAvailability.STARTING if coming else ModelAvailability.UNAVAILABLE


def routing_from(
    *,
    desired: Sequence[Placement],
    engines: Sequence[RoutedEngine],
    models: Sequence[ModelRecord],
    keys: Sequence[KeyRoute],
    policy: RoutePolicy,
    version: int,
    asleep: Collection[str] = (),
    waited_for: Collection[str] = (),
    ready_at: Mapping[str, float] = _NEVER,
    starts: Mapping[str, float] = _NEVER,
    looks: Mapping[str, AwaitedLook] = MappingProxyType({}),
    ending: bool = False,
) -> RoutingTable:
    """Return the routing table.

    Serving engines are routed. Draining engines, and engines that are to sleep, are listed as
    draining, so that the proxy lets their requests finish. No other engine appears. The draining
    engines of a removed model stay listed.

    Args:
        asleep: models that are to sleep. A model that is not among them, and has no replica awake
            yet, is being woken: its requests wait whatever the policy says.
        waited_for: models whose requests wait although no replica of them may be planned.
        ready_at: when models without a serving replica should serve again, in monotonic seconds;
            requests wait for the models that are listed and starting.
        starts: seconds that starts of a model took; its clients are told to come back after these.
        looks: the first looks that models wait for which are not measured yet.
        ending: whether the daemon ends, and all engines with it.
    """
    specs = {record.spec.name: record.spec for record in models}
    # This runs at each pass, so each model is given its own engines and places, and no others.
    placed = grouped(desired, lambda placement: placement.model)
    running = grouped(engines, lambda engine: engine.observed.placement.model)

    def route(record: ModelRecord) -> ModelRoute:
        name = record.spec.name
        wanted, own = placed.get(name, ()), running.get(name, ())
        return _model_route(
            record,
            availability_of(name, wanted, own, asleep, waited_for, ending=ending),
            name in asleep,
            _policy_for(policy, starts.get(name), at_zero=name in waited_for),
            [e for e in own if _serves(e)],
            ready_at=ready_at.get(name, 0.0),
            look=looks.get(name),
        )

    return RoutingTable(
        version=version,
        models=tuple(route(record) for record in models),
        replicas=tuple(
            _replica_route(engine, specs.get(engine.observed.placement.model))
            for engine in engines
            if _serves(engine) or _drains(engine)
        ),
        keys=tuple(keys),
        keys_required=policy.keys_required,
        keys_stale_seconds=policy.keys_stale_seconds,
    )


def key_route(key: KeyRecord) -> KeyRoute:
    """Return a key as the proxy sees it."""
    return KeyRoute(
        id=key.id,
        sha256=key.sha256,
        models=key.models,
        routes=key.routes,
        previous_sha256=key.previous_sha256,
        previous_until=unix_seconds(key.previous_until) if key.previous_until else 0.0,
        expires_at=unix_seconds(key.expires_at) if key.expires_at else 0.0,
        priority=key.priority,
        weight=key.weight,
        limits=key.limits,
        rates=key.rates,
    )


class KeyRoutes:
    """Memoises the keys as the proxy sees them until they change: there may be thousands."""

    def __init__(self) -> None:
        self._keys: Sequence[KeyRecord] = ()
        self._routes: tuple[KeyRoute, ...] = ()
        self._known: dict[str, tuple[KeyRecord, KeyRoute]] = {}

    def of(self, keys: Sequence[KeyRecord]) -> tuple[KeyRoute, ...]:
        """Return the keys for the proxy; the same object for the same object."""
        if keys is not self._keys:
            known, self._known = self._known, {}
            for key in keys:
                before = known.get(key.id)
                if before is None or before[0] is not key:
                    before = key, key_route(key)
                self._known[key.id] = before
            self._routes = tuple(route for _, route in self._known.values())
            self._keys = keys
        return self._routes


def _serves(engine: RoutedEngine) -> bool:
    return engine.observed.state is ReplicaState.SERVING


def _drains(engine: RoutedEngine) -> bool:
    return engine.observed.state in (ReplicaState.DRAINING, ReplicaState.QUIESCING)


def max_wait_seconds(spec: ModelSpec, serving: Sequence[Placement], policy: RoutePolicy) -> float:
    """Longest wait for a slot: `core.dispatch.routing.longest_wait_seconds` at the operating
    points."""
    own = [p.candidate.ttft_p95_seconds for p in serving if p.model == spec.name]
    bound = spec.slo.ttft_seconds if spec.slo is not None else None
    return routing.longest_wait_seconds(policy.max_wait_seconds, bound, max(own, default=0.0))


def _model_route(
    record: ModelRecord,
    availability: ModelAvailability,
    to_sleep: bool,
    policy: RoutePolicy,
    serving: Sequence[RoutedEngine],
    *,
    ready_at: float,
    look: AwaitedLook | None,
) -> ModelRoute:
    spec = record.spec
    measured_first = availability is ModelAvailability.UNAVAILABLE and look is not None
    sleeping = availability is ModelAvailability.SLEEPING
    coming = availability is ModelAvailability.STARTING and ready_at > 0
    # A wake or a start takes longer than most SLOs allow; requests wait for it all the same.
    longest = max_wait_seconds(spec, [e.observed.placement for e in serving], policy)
    if sleeping or coming:
        longest = policy.max_wait_seconds
    retry_after = (
        policy.waking_retry_after_seconds if sleeping else policy.starting_retry_after_seconds
    )
    return ModelRoute(
        name=spec.name,
        availability=availability,
        served_name=spec.name,
        created_at=_unix_seconds(record.created_at),
        max_queue=policy.max_queue,
        max_wait_seconds=longest,
        ttft_seconds=0.0 if spec.slo is None or sleeping or coming else spec.slo.ttft_seconds,
        tpot_seconds=0.0 if spec.slo is None else spec.slo.tpot_seconds,
        wait_limit_seconds=policy.max_wait_seconds,
        retry_after_seconds=retry_after,
        holds=coming or (sleeping and (policy.wake_on_request or not to_sleep)),
        ready_at=ready_at if coming or measured_first else 0.0,
        awaits=f"{look.job_id} measures {look.measures} first"
        if look is not None and measured_first
        else "",
        aliases=spec.aliases,
        defaults_json=defaults_json(spec.request_defaults),
        limits=spec.request_limits,
        max_model_len=min(
            [engine.max_model_len for engine in serving if engine.max_model_len],
            default=spec.max_model_len,
        ),
    )


def _policy_for(policy: RoutePolicy, start_seconds: float | None, *, at_zero: bool) -> RoutePolicy:
    """Return the policy of one model: its own measured start counts, and requests for a model that
    is started for them wait for that long.
    """
    if start_seconds is not None:
        policy = dataclasses.replace(policy, starting_retry_after_seconds=start_seconds)
    if at_zero:
        policy = dataclasses.replace(
            policy,
            max_wait_seconds=max(policy.max_wait_seconds, policy.zero_wait_seconds),
            waking_retry_after_seconds=policy.starting_retry_after_seconds,
        )
    return policy


def _replica_route(engine: RoutedEngine, spec: ModelSpec | None) -> ReplicaRoute:
    observed = engine.observed
    placement = observed.placement
    return ReplicaRoute(
        replica_id=engine.name,
        model=placement.model,
        socket_path=engine.socket_path,
        generation=observed.generation,
        max_sequences=placement.candidate.batch,
        kv_cache_tokens=engine.kv_cache_tokens,
        max_model_len=engine.max_model_len,
        draining=_drains(engine) or spec is None,
        service_seconds=service_seconds(placement, spec) if spec is not None else 1.0,
        host=engine.host,
        tokens_per_s=1 / tpot if (tpot := placement.candidate.tpot_p95_seconds) > 0 else 0.0,
    )


def _unix_seconds(utc_iso: str) -> int:
    try:
        return int(unix_seconds(utc_iso))
    except ValueError:
        return 0
