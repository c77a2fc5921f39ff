"""Fake devices behave as data: they differ in their id, come, go, and refuse."""

import pytest

from partitiond.core.errors import DeviceError, SpecError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.devices.fake import FakeDevices, fake_cpu, fake_gpus


def test_gpus_of_a_kind_differ_in_nothing_but_their_id() -> None:
    gpus = fake_gpus("a100-80gb", 8)
    assert [gpu.id for gpu in gpus] == [f"a100-80gb-{number}" for number in range(8)]
    assert {gpu.memory_bytes for gpu in gpus} == {HARDWARE["a100-80gb"].memory_bytes}


def test_unknown_hardware_lists_what_is_known() -> None:
    with pytest.raises(SpecError) as caught:
        fake_gpus("a100-81gb")
    assert "a100-80gb" in caught.value.hint


def test_devices_can_come_go_and_refuse() -> None:
    provider = FakeDevices(fake_gpus("l4-24gb", 2))
    provider.become([fake_cpu()])
    assert [device.id for device in provider.discover()] == ["cpu"]
    provider.refuse()
    with pytest.raises(DeviceError):
        provider.discover()
