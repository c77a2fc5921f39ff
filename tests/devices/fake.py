"""Devices that are not there, and a driver that tells of them, refuses or hangs."""

import threading
from collections.abc import Iterable, Sequence

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.units import GIB, Bytes
from partitiond.devices.cpu import CPU_DEVICE_ID

FAKE_HOST = "fake-host"


def fake_gpus(
    hardware: str, count: int = 1, *, host: str = FAKE_HOST, cores: Sequence[int] = range(16)
) -> tuple[Device, ...]:
    """GPUs of one kind from the catalog, all free: ids "a100-80gb-0", "a100-80gb-1" ..."""
    spec = HARDWARE[hardware]
    return tuple(
        Device(
            id=f"{hardware}-{number}",
            kind=DeviceKind.GPU,
            hardware=hardware,
            name=f"fake {hardware}",
            host=host,
            memory_bytes=spec.memory_bytes,
            free_bytes=spec.memory_bytes,
            cores=tuple(cores),
            sm_count=spec.sm_count,
            modes=spec.modes,
            driver="fake",
        )
        for number in range(count)
    )


def fake_cpu(
    cores: int = 2,
    memory_bytes: int = 24 * GIB,
    *,
    host: str = FAKE_HOST,
    device_id: str = CPU_DEVICE_ID,
) -> Device:
    """Return a CPU device with this many cores, all free."""
    return Device(
        id=device_id,
        kind=DeviceKind.CPU,
        hardware=f"cpu-fake-{cores}c",
        name="fake CPU",
        host=host,
        memory_bytes=Bytes(memory_bytes),
        free_bytes=Bytes(memory_bytes),
        cores=tuple(range(cores)),
        modes=(SharingMode.CORES,),
        driver="fake",
    )


class FakeDevices:
    """A device provider that returns the given devices, or refuses or hangs as a driver would."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = tuple(devices)
        self._refusal: DeviceError | None = None
        self._answers = threading.Event()
        self._answers.set()

    def discover(self) -> Sequence[Device]:
        """Return the devices; raise DeviceError after `refuse`; do not return after `hang`."""
        self._answers.wait()
        if self._refusal is not None:
            raise self._refusal
        return self._devices

    def become(self, devices: Iterable[Device]) -> None:
        """Return these from now on: a GPU was added, lost, or its free memory changed."""
        self._devices, self._refusal = tuple(devices), None
        self._answers.set()

    def hang(self) -> None:
        """Answer no call from now on, until `become`."""
        self._answers.clear()

    def refuse(self, message: str = "the driver does not answer.") -> None:
        """Raise DeviceError from now on."""
        self._refusal = DeviceError(message, hint="Check the driver, then try again.")
