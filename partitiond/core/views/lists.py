"""Defines replicas, models, keys and profiles as lists show them."""

import dataclasses

from partitiond.core.hardware.partition import Partition
from partitiond.core.keys.record import KeyRecord, KeyUse
from partitiond.core.model.record import ModelRecord
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.replica.obstacles import Obstacle


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaView:
    """One engine as people see it, or the one that a replica of the plan is to get.

    Attributes:
        replica_id: the replica's, as in the plan; while it moves two engines carry it.
        engine: the engine's name, which no other one has: on every table, in events, metrics,
            logs and headers. It is known before the engine starts.
        state: pending, starting, serving, drowsy, falling-asleep, sleeping, waking, draining,
            stopping, stopped, failing, failed.
        start_progress: last progress line while it starts.
        adopted: it was found running after a restart of the daemon.
        variant: form of the model it runs; empty for the model itself.
        sleep_level: how deep it sleeps, or is to; 0 while it is awake.
        held_bytes: memory of its device that it holds now: asleep, less than `memory_bytes`; 0
            without a process.
        coming_bytes: memory that it will hold once it is started; 0 where it has a process, or
            is not to get one.
        host: name of its device's host; empty if that is not known.
    """

    replica_id: str
    engine: str
    model: str
    device_id: str
    partition: Partition
    state: str
    pid: int | None
    in_flight: int | None
    limit: int
    memory_bytes: int
    starts: int
    adopted: bool
    start_progress: str = ""
    last_error: str = ""
    log_path: str = ""
    socket_path: str = ""
    variant: str = ""
    sleep_level: int = 0
    held_bytes: int = 0
    coming_bytes: int = 0
    host: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ModelView:
    """One model as people see it.

    Attributes:
        availability: serving, starting, asleep, scaled to zero, unavailable or ending.
        profile_kind: best profile it has: measured, transferred, estimated, or None.
        provisional: it is served from an estimate.
        note: what the chain waits for, in one sentence.
        asleep: the level at which it is to sleep; 0 where it is to be awake.
        obstacle: what keeps it from running; None for nothing that is known.
        warning: what it asks for and this host does not give; empty for nothing.
    """

    record: ModelRecord
    availability: str
    replicas_serving: int
    replicas_planned: int
    profile_kind: ProfileKind | None
    provisional: bool
    note: str = ""
    asleep: int = 0
    obstacle: Obstacle | None = None
    warning: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class KeyView:
    """One API key as people see it.

    Attributes:
        use: as the proxy counts; None where it does not say.
    """

    record: KeyRecord
    use: KeyUse | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileView:
    """One profile as people see it.

    Attributes:
        stale: why it no longer speaks for what runs now, one clause each; empty where it does.
    """

    profile: Profile
    stale: tuple[str, ...] = ()
