"""Replicas that have lost their devices are found."""

import dataclasses

import pytest

from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import Device
from partitiond.core.replica.lost import cut_off, refused, stranded
from partitiond.core.replica.observation import HOPELESS_FAILURES, ObservedReplica
from partitiond.core.replica.states import ReplicaState
from tests.controller.samples import cpu, placement

ONE = cpu(2)
OTHER = dataclasses.replace(ONE, id="cpu-2")
HERE = [placement("a-1", (0,)), placement("b-1", (1,))]
THERE = dataclasses.replace(placement("c-1"), device_id=OTHER.id)
CORDONED = dataclasses.replace(ONE, cordoned=True)
FAILED, SILENT, FINE, DEGRADED = (
    dataclasses.replace(CORDONED, health=health)
    for health in (
        DeviceHealth.FAILED, DeviceHealth.SILENT, DeviceHealth.FINE, DeviceHealth.DEGRADED
    )
)  # fmt: skip


def test_replicas_are_stranded_on_a_device_that_failed_or_is_gone() -> None:
    """What runs on a device under a cordon goes on, and a plan of nothing misses nothing."""
    assert stranded(HERE, [FAILED])
    assert stranded(HERE, [])
    fine = [[ONE, FAILED], [ONE], [CORDONED], [dataclasses.replace(DEGRADED, cordoned=False)]]
    assert not any(stranded(HERE, devices) for devices in fine)
    assert not stranded([], [FAILED])


@pytest.mark.parametrize("left", [[], [FAILED], [SILENT]], ids=["nothing", "failed", "silent"])
def test_what_does_not_run_any_more_is_cut_off_from_a_device_that_is_lost(
    left: list[Device],
) -> None:
    devices, wanted = [OTHER, *left], [*HERE, THERE]
    assert cut_off(wanted, devices, live=()) == {"a-1", "b-1"}
    assert cut_off(wanted, devices, live={"a-1"}) == {"b-1"}
    assert not cut_off(wanted, devices, live={"a-1", "b-1"})
    assert cut_off(wanted, devices, live=(), asleep={"a"}) == {"b-1"}


def test_nothing_is_cut_off_from_a_device_that_works_or_before_any_was_seen() -> None:
    assert not any(cut_off(HERE, [device], live=()) for device in (ONE, FINE, DEGRADED))
    assert cut_off(HERE, (), live=()) == frozenset()


def observed(**changes: object) -> ObservedReplica:
    told = {"refused": True, "failures": HOPELESS_FAILURES} | changes
    return ObservedReplica("a-1", "1", HERE[0], ReplicaState.FAILED, None, 0.0, **told)  # type: ignore[arg-type]


def test_a_device_refuses_a_replica_after_several_starts_there_and_no_others() -> None:
    assert refused(HERE, [observed()]) == (HERE[0],)
    assert refused(HERE, [observed(failures=HOPELESS_FAILURES - 1)]) == ()
    assert refused(HERE, [observed(refused=False)]) == ()
    moved = dataclasses.replace(HERE[0], device_id=OTHER.id)
    assert refused([moved], [observed()]) == (), "the other device was not asked yet"
