"""Finds replicas whose device is lost, which is gone, failed or silent, or refuses them. Pure.

An engine sometimes outlives its device: on a GPU that failed it goes on serving until it ends, and
a plan that moves its replica waits until an operator applies it. Once the engine has ended, its
model misses a replica, and only another plan can give the model one.
"""

from collections.abc import Collection, Iterable, Sequence

from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import Device
from partitiond.core.plan.record import Placement
from partitiond.core.replica.observation import HOPELESS_FAILURES, ObservedReplica


def stranded(applied: Collection[Placement], devices: Sequence[Device]) -> bool:
    """Return whether some applied replicas have no device to run on until there is another plan."""
    works = {device.id for device in devices if device.health is not DeviceHealth.FAILED}
    return any(placement.device_id not in works for placement in applied)


def cut_off(
    wanted: Iterable[Placement],
    devices: Collection[Device],
    live: Collection[str],
    asleep: Collection[str] = (),
) -> frozenset[str]:
    """Return ids of the replicas without a running engine whose device is gone, failed or silent.

    If no device is known at all, the host was not observed yet, and no device counts as gone.

    Args:
        wanted: of the applied plan.
        devices: as last seen.
        live: ids of the replicas that have an engine process, wherever it runs.
        asleep: models that are to sleep; their engines are not missed.
    """
    if not devices:
        return frozenset()
    answers = {d.id for d in devices if d.health not in (DeviceHealth.FAILED, DeviceHealth.SILENT)}
    return frozenset(
        p.replica_id for p in wanted if p.device_id not in answers and is_missed(p, live, asleep)
    )


def refused(
    wanted: Iterable[Placement], replicas: Iterable[ObservedReplica]
) -> tuple[Placement, ...]:
    """Return those of the wanted placements that do not run because their devices refuse them.

    A device refuses a start for want of room, say, which others took. No engine began, so nothing
    is known against the model or the kind of device: other devices may take the replica.

    Args:
        wanted: of the applied plan.
        replicas: all engines, and records of ended ones.
    """
    there = {
        (replica.replica_id, replica.placement.device_id)
        for replica in replicas
        if replica.refused and replica.failures >= HOPELESS_FAILURES
    }
    return tuple(p for p in wanted if (p.replica_id, p.device_id) in there)


def is_missed(placement: Placement, live: Collection[str], asleep: Collection[str]) -> bool:
    """Return whether a replica has no running engine and should have one.

    Args:
        live, asleep: as in `cut_off`.
    """
    return placement.replica_id not in live and placement.model not in asleep
