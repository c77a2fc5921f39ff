"""Reconcile: desired plan and observed host in, ordered actions out. A pure function.

Invariants (each is a property test):
- once all actions are applied, the next call returns ();
- what could not be observed is `Unknown`, and no action rests on it;
- at most one engine starts at a time per device;
- make before break where room allows: a replica that is replaced drains only after enough of
  the model's wanted replicas serve, unless old and new do not fit on the device together;
- a draining replica gets no request; an engine is stopped only when nothing is in flight or its
  drain deadline has passed;
- an engine that nobody asked for is stopped, never one that could not be identified.
"""

import dataclasses
import enum

from partitiond.core.plan import Placement
from partitiond.core.replica import ReplicaState


@dataclasses.dataclass(frozen=True, slots=True)
class Unknown:
    """Something that could not be observed, and why. No action rests on it."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class ObservedReplica:
    """One replica as the host shows it.

    Attributes:
        replica_id: name.
        generation: identifies the process (pid and start time), so a restart is another one.
        placement: what it was started with, from its journal.
        state: state of its life.
        in_flight: requests in flight at the proxy; None where the proxy could not say.
        state_since: monotonic seconds when it entered the state.
        failures: consecutive failed starts or exits; drives back-off.
        last_error: diagnosis of the last failure, or empty.
    """

    replica_id: str
    generation: str
    placement: Placement
    state: ReplicaState
    in_flight: int | None
    state_since: float
    failures: int = 0
    last_error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """What the controller saw in one pass.

    Attributes:
        replicas: engines found, whatever their state.
        devices: device id -> memory free for engines in bytes, or Unknown.
        now: monotonic seconds.
    """

    replicas: tuple[ObservedReplica, ...]
    devices: tuple[tuple[str, "int | Unknown"], ...]
    now: float


@dataclasses.dataclass(frozen=True, slots=True)
class StartEngine:
    """Start the engine of a placement; it has `deadline_seconds` to become ready."""

    placement: Placement
    deadline_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class DrainReplica:
    """Take the replica out of the routing table for new requests."""

    replica_id: str
    generation: str
    deadline_seconds: float


class StopReason(enum.StrEnum):
    """Why an engine is stopped."""

    DRAINED = "drained"
    DRAIN_DEADLINE = "drain-deadline"
    START_DEADLINE = "start-deadline"
    NOT_WANTED = "not-wanted"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, slots=True)
class StopEngine:
    """End the process group: terminate, after `grace_seconds` kill, then release the partition."""

    replica_id: str
    generation: str
    reason: StopReason
    grace_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class ForgetReplica:
    """Drop the record of a replica that is stopped (or failed) and not wanted."""

    replica_id: str


Action = StartEngine | DrainReplica | StopEngine | ForgetReplica


@dataclasses.dataclass(frozen=True, slots=True)
class ReconcilePolicy:
    """Bounds of the reconciler, each with a name.

    Attributes:
        start_deadline_seconds: vLLM's own start limit is 600 s; a little more is never needed.
        drain_deadline_seconds: longest wait for requests in flight.
        stop_grace_seconds: between terminate and kill.
        backoff_base_seconds, backoff_max_seconds: restart delay base x 2^(failures-1), capped.
        max_starting: engines that may start at a time per device.
    """

    start_deadline_seconds: float = 600.0
    drain_deadline_seconds: float = 120.0
    stop_grace_seconds: float = 10.0
    backoff_base_seconds: float = 1.0
    backoff_max_seconds: float = 60.0
    max_starting: int = 1
