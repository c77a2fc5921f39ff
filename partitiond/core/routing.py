"""Routing tables: immutable snapshots of who may get requests. All the proxy knows."""

import dataclasses
import enum
from typing import Final

ROUTING_SCHEMA_VERSION: Final = 1


class ModelAvailability(enum.StrEnum):
    """What the proxy answers while a model has no serving replica."""

    SERVING = "serving"
    STARTING = "starting"
    """A replica is coming: 503 with Retry-After."""
    SLEEPING = "sleeping"
    """Its replicas sleep, or are on their way there or back: requests wait for them, or get 503."""
    UNAVAILABLE = "unavailable"
    """Registered, but no replica is planned or all failed: 503."""


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaRoute:
    """One replica as the proxy sees it.

    Attributes:
        replica_id: name, also in logs and debug headers.
        model: registered model name.
        socket_path: Unix socket of its engine.
        generation: changes whenever the engine behind the name is another process.
        max_sequences: limit, the batch at its operating point.
        kv_cache_tokens: KV tokens of the started engine; 0 where unknown (then not checked).
        max_model_len: longest context in tokens.
        draining: admit nothing new; what runs finishes.
        service_seconds: expected time of one request at the operating point, for Retry-After.
    """

    replica_id: str
    model: str
    socket_path: str
    generation: str
    max_sequences: int
    kv_cache_tokens: int
    max_model_len: int
    draining: bool = False
    service_seconds: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class ModelRoute:
    """One model as the proxy sees it.

    Attributes:
        name: what clients put into `model`.
        availability: what to answer without a serving replica.
        served_name: name the engine was started with.
        created_at: Unix seconds, for `/v1/models`.
        max_queue: requests that may wait for a slot; beyond it 429.
        max_wait_seconds: longest wait for a slot; beyond it 429 (or the SLO's TTFT bound, when
            shorter: a request that cannot start in time is refused at once).
        retry_after_seconds: for 503 while starting or asleep.
        holds: while it is SLEEPING, requests wait until it is awake, for `max_wait_seconds` at
            most; else they are refused at once.
    """

    name: str
    availability: ModelAvailability
    served_name: str
    created_at: int = 0
    max_queue: int = 256
    max_wait_seconds: float = 30.0
    retry_after_seconds: float = 30.0
    holds: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class KeyRoute:
    """An API key as the proxy sees it: its SHA-256, never the key.

    Attributes:
        id: short public name for logs and metrics.
        sha256: hex digest.
        models: models it may use; empty for all.
    """

    id: str
    sha256: str
    models: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class RoutingTable:
    """One immutable snapshot.

    Attributes:
        version: grows with each snapshot of one daemon; the proxy ignores older ones.
        keys_required: whether requests need a key (always so beyond loopback).
    """

    version: int
    models: tuple[ModelRoute, ...]
    replicas: tuple[ReplicaRoute, ...]
    keys: tuple[KeyRoute, ...] = ()
    keys_required: bool = False
    schema_version: int = ROUTING_SCHEMA_VERSION

    def replicas_of(self, model: str) -> tuple[ReplicaRoute, ...]:
        """All replicas of a model, draining ones included."""
        return tuple(r for r in self.replicas if r.model == model)


EMPTY_ROUTING_TABLE: Final = RoutingTable(version=0, models=(), replicas=())


def service_seconds(ttft_seconds: float, tpot_seconds: float, output_tokens: float) -> float:
    """Expected time of one request in an engine: TTFT + (outputs - 1) x TPOT."""
    return ttft_seconds + (output_tokens - 1) * tpot_seconds


def longest_wait_seconds(
    limit_seconds: float, ttft_bound_seconds: float | None, engine_ttft_seconds: float
) -> float:
    """Longest wait for a slot after which a request can still meet its SLO's TTFT bound.

    The bound counts from the request's last byte, so what the engine itself takes to the first
    token is not there to be waited; a later start would only make a request that is late take the
    place of one that is not.

    Args:
        limit_seconds: longest wait whatever the SLO.
        ttft_bound_seconds: the SLO's, or None without one.
        engine_ttft_seconds: p95 of the slowest replica at its operating point.
    """
    if ttft_bound_seconds is None:
        return limit_seconds
    return min(limit_seconds, max(ttft_bound_seconds - engine_ttft_seconds, 0.0))
