"""Replicas whose device is lost: it is gone, failed or silent. Pure.

An engine outlives its device now and then: one that serves from a GPU that failed goes on until it
ends, and a plan that moves it waits for somebody to apply it. Once it has ended, its model misses a
replica, and nothing but another plan gives it one.
"""

from collections.abc import Collection, Iterable, Sequence

from partitiond.core.hardware import Device
from partitiond.core.health import Health
from partitiond.core.plan import Placement


def stranded(applied: Collection[Placement], devices: Sequence[Device]) -> bool:
    """Whether replicas of the applied plan have no device to run on until there is another plan."""
    works = {device.id for device in devices if device.health is not Health.FAILED}
    return any(placement.device_id not in works for placement in applied)


def cut_off(
    wanted: Iterable[Placement],
    devices: Collection[Device],
    live: Collection[str],
    asleep: Collection[str] = (),
) -> frozenset[str]:
    """Ids of the replicas of which nothing runs, and whose device is gone, failed or silent.

    Where no device is known at all, nobody has seen the host yet, and none is called gone.

    Args:
        wanted: of the applied plan.
        devices: as last seen.
        live: ids of the replicas of which an engine has a process, wherever it runs.
        asleep: models that are to sleep: nobody misses their engines.
    """
    if not devices:
        return frozenset()
    answers = {d.id for d in devices if d.health not in (Health.FAILED, Health.SILENT)}
    return frozenset(
        p.replica_id
        for p in wanted
        if p.device_id not in answers and p.replica_id not in live and p.model not in asleep
    )


__all__ = ["cut_off", "stranded"]
