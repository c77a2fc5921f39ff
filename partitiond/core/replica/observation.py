"""Defines the reconciler's observations, the actions it answers with, and its bounds."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Final

from partitiond.core.hardware.partition import Partition
from partitiond.core.plan.record import Placement
from partitiond.core.replica.states import ReplicaState

LIVE: Final = frozenset(
    {
        ReplicaState.STARTING,
        ReplicaState.SERVING,
        ReplicaState.QUIESCING,
        ReplicaState.FALLING_ASLEEP,
        ReplicaState.SLEEPING,
        ReplicaState.WAKING,
        ReplicaState.DRAINING,
        ReplicaState.STOPPING,
        ReplicaState.FAILING,
    }
)
"""States in which an engine has a process and therefore holds its partition
(`core.replica.sleep.asleep_partition`)."""

ALLOCATING: Final = frozenset(
    {ReplicaState.STARTING, ReplicaState.FALLING_ASLEEP, ReplicaState.WAKING}
)
"""States in which an engine's memory changes (`core.replica.device_room.has_turn`)."""

HOPELESS_FAILURES: Final = 3
"""Failures in a row after which nothing waits for a replica any more: after failed starts it makes
room for others (`core.replica.obstacles`), after any failures its model is called unavailable."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unknown:
    """Something that could not be observed, and why. No action relies on it."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class ObservedReplica:
    """One replica as observed on the host.

    Attributes:
        replica_id: name.
        generation: identifies the process (pid and start time), so a restart is another one.
        placement: what its engine was started with, from its journal.
        state: its state (`core.replica.states`).
        in_flight: requests in flight at the proxy; None if the proxy could not say.
        state_since: monotonic seconds when the replica entered the state.
        failures: consecutive failed starts or exits; drives back-off.
        failed_starts: failures since it was ready last; those of broken devices, and starts that
            the device refused, do not count: of the model these say nothing.
        last_error: diagnosis of the last failure, or empty.
        can_sleep: its engine was started such that it can be put to sleep.
        sleep_level: level at which it sleeps, or is to sleep; 0 while it is awake.
        stuck: its engine could not be ended; the attempt is repeated again and again.
        refused: its device refused the last start, as for want of room.
    """

    replica_id: str
    generation: str
    placement: Placement
    state: ReplicaState
    in_flight: int | None
    state_since: float
    failures: int = 0
    last_error: str = ""
    can_sleep: bool = False
    sleep_level: int = 0
    failed_starts: int = 0
    stuck: bool = False
    refused: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """What the controller observed in one pass.

    Attributes:
        replicas: engines found, in any state. Failed and stopped ones hold nothing.
        devices: device id -> bytes that all engines of this daemon may take together (reserve,
            headroom and foreign use taken off), or Unknown. A device that is not listed counts
            as Unknown.
        now: monotonic seconds.
        leases: partitions lent to profile jobs; nothing starts on them.
        measuring: devices on which a profile job starts its engine now.
        start_cores: device id -> host cores for the engines that start there at a time. On a device
            that is not listed one starts after the other.
        not_ready: forms of models (`Placement.form`) whose files are not on disk yet; none of
            their engines is started.
        without_files: replicas whose host lacks the files of their form, although another host has
            them; none of these is started.
        faulted: devices whose engines are all broken, as the driver or MPS reports: the engines are
            ended, and nothing starts, sleeps or wakes there while the device is listed.
        withheld: replicas that are not started, because something keeps them from running
            (`core.replica.obstacles`).
        outgrown: generations of engines that hold more of their device than their share
            (`core.hardware.partition_checks.outgrown`), until nothing of these engines is left.
    """

    replicas: tuple[ObservedReplica, ...]
    devices: tuple[tuple[str, "int | Unknown"], ...]
    now: float
    leases: tuple[Partition, ...] = ()
    measuring: tuple[str, ...] = ()
    start_cores: Mapping[str, int] = dataclasses.field(default_factory=dict)
    not_ready: tuple[str, ...] = ()
    without_files: tuple[str, ...] = ()
    faulted: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    outgrown: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class StartEngine:
    """Start the engine of a placement.

    The engine replaces a failed or stopped record of the same replica and takes over its failures.
    """

    placement: Placement


@dataclasses.dataclass(frozen=True, slots=True)
class DrainReplica:
    """Take the replica out of the routing table for new requests; it is stopped afterwards."""

    replica_id: str
    generation: str


@dataclasses.dataclass(frozen=True, slots=True)
class QuiesceReplica:
    """Take the replica out of the routing table for new requests; it is put to sleep afterwards.

    There is no deadline, because falling asleep sooner is not worth the loss of a request.
    """

    replica_id: str
    generation: str


@dataclasses.dataclass(frozen=True, slots=True)
class SleepReplica:
    """Put the engine to sleep; nothing is in flight on it.

    Attributes:
        level: 1 keeps the weights in host memory, 2 drops them.
    """

    replica_id: str
    generation: str
    level: int


@dataclasses.dataclass(frozen=True, slots=True)
class WakeReplica:
    """Wake the engine; an engine that is only quiescing serves again at once."""

    replica_id: str
    generation: str


class StopReason(enum.StrEnum):
    """Why an engine is stopped."""

    DRAINED = "drained"
    DRAIN_DEADLINE = "drain-deadline"
    START_DEADLINE = "start-deadline"
    NOT_WANTED = "not-wanted"
    FAILED = "failed"
    YIELDS = "yields"
    """The engine starts after too many failures, and another one waits for its turn."""


@dataclasses.dataclass(frozen=True, slots=True)
class StopEngine:
    """End the process group: terminate, kill after `grace_seconds`, then release the partition.

    The reasons START_DEADLINE and FAILED make the replica failed, unless it drains already; any
    other makes it stopped.
    """

    replica_id: str
    generation: str
    reason: StopReason
    grace_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class ForgetReplica:
    """Drop the record of a replica that is stopped (or failed) and not wanted."""

    replica_id: str
    generation: str = ""


Action = (
    StartEngine
    | DrainReplica
    | QuiesceReplica
    | SleepReplica
    | WakeReplica
    | StopEngine
    | ForgetReplica
)


@dataclasses.dataclass(frozen=True, slots=True)
class ReconcilePolicy:
    """Bounds of the reconciler, each with a name.

    Attributes:
        start_deadline_seconds: vLLM's own start limit is 600 s, so more is never needed. The same
            deadline holds for falling asleep and for waking.
        drain_deadline_seconds: longest wait for requests in flight.
        stop_grace_seconds: between terminate and kill.
        backoff_base_seconds, backoff_max_seconds: restart delay from the second failure in a row
            on, base x 2^(failures - 2), capped; the first restart is immediate.
    """

    start_deadline_seconds: float = 600.0
    drain_deadline_seconds: float = 120.0
    stop_grace_seconds: float = 10.0
    backoff_base_seconds: float = 1.0
    backoff_max_seconds: float = 60.0
