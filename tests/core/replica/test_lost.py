"""Replicas that have lost their devices are found."""

import dataclasses

import pytest

from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import Device
from partitiond.core.replica.lost import cut_off, stranded
from tests.controller.samples import cpu, placement

ONE = cpu(2)
OTHER = dataclasses.replace(ONE, id="cpu-2")
HERE = [placement("a-1", (0,)), placement("b-1", (1,))]
THERE = dataclasses.replace(placement("c-1"), device_id=OTHER.id)
LOST = [(), (DeviceHealth.FAILED,), (DeviceHealth.SILENT,)]
"""What is left of a device: nothing, or it in this state."""


def in_state(health: DeviceHealth) -> Device:
    return dataclasses.replace(ONE, cordoned=True, health=health)


def test_replicas_are_stranded_on_a_device_that_failed_or_is_gone() -> None:
    there = cpu(2)
    failed = dataclasses.replace(there, cordoned=True, health=DeviceHealth.FAILED)
    cordoned = dataclasses.replace(there, cordoned=True)
    degraded = dataclasses.replace(there, health=DeviceHealth.DEGRADED)
    applied = [dataclasses.replace(placement("a-1"), device_id=there.id)]
    found = [stranded(applied, devices) for devices in ([failed], [], [there, failed])]
    assert found == [True, True, False]
    # What runs on a device under a cordon goes on, and a plan of nothing misses nothing.
    assert not any(stranded(applied, [device]) for device in (there, cordoned, degraded))
    assert not stranded([], [failed])


@pytest.mark.parametrize("left", LOST)
def test_what_does_not_run_any_more_is_cut_off_from_a_device_that_is_lost(
    left: tuple[DeviceHealth, ...],
) -> None:
    devices = [OTHER, *(in_state(health) for health in left)]
    wanted = [*HERE, THERE]
    assert cut_off(wanted, devices, live=()) == {"a-1", "b-1"}
    assert cut_off(wanted, devices, live={"a-1"}) == {"b-1"}  # it serves on until it ends
    assert cut_off(wanted, devices, live={"a-1", "b-1"}) == frozenset()
    assert cut_off(wanted, devices, live=(), asleep={"a"}) == {"b-1"}  # nobody misses it


def test_nothing_is_cut_off_from_a_device_that_works_or_before_any_was_seen() -> None:
    works = [cpu(2), in_state(DeviceHealth.FINE), in_state(DeviceHealth.DEGRADED)]
    assert not any(cut_off(HERE, [device], live=()) for device in works)
    assert cut_off(HERE, (), live=()) == frozenset()
