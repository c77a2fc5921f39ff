"""A driver may hang in every single call of the daemon without harm to the daemon."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pynvml
import pytest

from partitiond.core.errors import SilentError
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import Device
from partitiond.devices.gauges import HostGauges
from partitiond.devices.host import HostDevices
from partitiond.devices.nvml.session_gate import QUIET
from partitiond.devices.partitions.gpus import FailedGpus, NvmlGpus
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost

SECONDS = 0.05
"""Deadline of a look here. A slow machine may miss it where nothing hangs, so what is well is
looked at until it answers."""

OF_ALL = (
    "nvmlInitWithFlags", "nvmlShutdown", "nvmlDeviceGetCount_v2", "nvmlSystemGetDriverVersion",
    "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByUUID",
)  # fmt: skip
OF_ONE = (
    "nvmlDeviceGetName", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetComputeMode",
    "nvmlDeviceGetMigMode", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetRemappedRows",
    "nvmlDeviceGetRetiredPagesPendingStatus", "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRetiredPages",
    "nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetTemperature",
    "nvmlDeviceGetTemperatureThreshold", "nvmlDeviceGetGpuInstanceProfileInfoV",
    "nvmlDeviceGetGpuInstancePossiblePlacements_v2", "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetAttributes_v2",
    "nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetCpuAffinity",
    "nvmlDeviceGetCudaComputeCapability", "nvmlDeviceGetGpuInstances", "nvmlGpuInstanceGetInfo",
    "nvmlGpuInstanceGetComputeInstanceProfileInfoV", "nvmlGpuInstanceGetComputeInstances",
    "nvmlComputeInstanceGetInfo_v2",
)  # fmt: skip
GAUGES = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedHost]:
    """One GPU with an instance of MIG, one without MIG."""
    gpus = (
        GpuDescription("a100-80gb", mig=True, mig_instances=("3g.40gb@4",)),
        GpuDescription("a100-80gb"),
    )
    folder = tmp_path_factory.mktemp("gpus") / "host"
    made = SimulatedHost.create(HostDescription("hanging", gpus), folder)
    with made.installed():
        yield made


@pytest.fixture(autouse=True)
def healed(host: SimulatedHost) -> Iterator[None]:
    yield
    host.heal()
    for thread in looking():
        thread.join(60)


def looking() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("look at ")]


def devices_of(own_pids: Callable[[], list[int]] = list) -> HostDevices:
    return HostDevices(
        cpu=False,
        own_pids=own_pids,
        mig_changes="mode",
        mig_helper=Path("/nonexistent"),
        looks=DeadlineCalls(SECONDS),
    )


def until(ask: Callable[[], Device], health: DeviceHealth, patience: float = 60.0) -> Device:
    """The device as it is once it is so."""
    deadline = time.monotonic() + patience
    while (found := ask()).health is not health:
        assert time.monotonic() < deadline, found
    return found


def test_no_call_of_a_look_is_missing_here(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: set[str] = set()
    pointer = pynvml._nvmlGetFunctionPointer

    def noted(name: str) -> object:
        made.add(name)
        return pointer(name)

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", noted)
    devices = HostDevices(cpu=False, mig_changes="mode", mig_helper=Path("/nonexistent"))
    gpus = NvmlGpus(FailedGpus(devices.discover), host_pids=True)
    devices.discover()
    for uuid in host.uuids():
        gpus.use(uuid)
        gpus.mig_mode(uuid)
        gpus.compute_mode(uuid)
    HostGauges(cpu=False).read()
    assert made == {*OF_ALL, *OF_ONE, *GAUGES}


@pytest.mark.parametrize("function", OF_ALL + OF_ONE)
def test_a_look_ends_and_tells_which_gpus_are_silent(host: SimulatedHost, function: str) -> None:
    devices, (first, second) = devices_of(), host.uuids()

    def seen(uuid: str) -> Callable[[], Device]:
        return lambda: next(d for d in devices.discover() if d.id == uuid)

    def well() -> bool:
        return {d.id for d in devices.discover() if d.health is DeviceHealth.FINE} == {
            first,
            second,
        }

    while not well():
        pass
    host.hang(function, uuid="" if function in OF_ALL else first)
    silent = until(seen(first), DeviceHealth.SILENT)
    assert silent.cordoned
    assert silent.cordon_reason == silent.health_reason
    assert silent.health_reason.startswith("silent for 0.05 s")
    until(seen(second), DeviceHealth.SILENT if function in OF_ALL else DeviceHealth.FINE)
    for _ in range(5):
        devices.discover()
    assert len(looking()) <= 4  # the driver's, each GPU's, and that of our own processes
    # Nothing that failed is made of it: what runs on a silent GPU is left alone.
    assert FailedGpus(devices.discover)() == ()
    host.heal()
    until(seen(first), DeviceHealth.FINE)
    until(seen(second), DeviceHealth.FINE)


@pytest.mark.parametrize("function", OF_ALL + OF_ONE)
def test_the_first_look_ends_without_what_it_could_not_see(
    host: SimulatedHost, function: str
) -> None:
    devices, first = devices_of(), host.uuids()[0]
    host.hang(function, uuid="" if function in OF_ALL else first)
    assert first not in {device.id for device in devices.discover()}
    assert devices.unseen == "silent for 0.05 s"
    host.heal()
    while devices.unseen or first not in {device.id for device in devices.discover()}:
        devices.discover()


@pytest.mark.parametrize(
    ("function", "look"),
    [
        (function, look)
        for look, functions in {
            NvmlGpus.use: (
                "nvmlInitWithFlags", "nvmlShutdown", "nvmlDeviceGetHandleByUUID",
                "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetComputeRunningProcesses_v3",
                "nvmlDeviceGetGraphicsRunningProcesses_v3",
                "nvmlDeviceGetMPSComputeRunningProcesses_v3",
            ),
            NvmlGpus.mig_mode: ("nvmlInitWithFlags", "nvmlDeviceGetMigMode"),
            NvmlGpus.compute_mode: ("nvmlInitWithFlags", "nvmlDeviceGetComputeMode"),
        }.items()
        for function in functions
    ],
)  # fmt: skip
def test_a_start_is_refused_in_time(
    host: SimulatedHost, function: str, look: Callable[[NvmlGpus, str], object]
) -> None:
    gpus, uuid = NvmlGpus(host_pids=True, looks=DeadlineCalls(SECONDS)), host.uuids()[1]
    host.hang(function)
    for _ in range(3):
        with pytest.raises(SilentError, match=f"{uuid}: silent for"):
            look(gpus, uuid)
    assert len(looking()) == 1
    host.heal()
    for thread in looking():
        thread.join(60)
    assert look(NvmlGpus(host_pids=True), uuid) is not None


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2", *GAUGES])
def test_gauges_come_without_gpus_that_hang(host: SimulatedHost, function: str) -> None:
    gauges = HostGauges(cpu=False, gpu_seconds=SECONDS)
    host.hang(function)
    for _ in range(3):
        assert gauges.read() == {}
    assert len(looking()) == 1


def test_own_processes_that_cannot_be_told_make_gpus_silent(host: SimulatedHost) -> None:
    release = threading.Event()
    hangs = False

    def own_pids() -> list[int]:
        if hangs:
            release.wait(60)
        return []

    devices = devices_of(own_pids)
    while len(devices.discover()) < 2:
        pass
    hangs = True
    try:
        until(lambda: devices.discover()[0], DeviceHealth.SILENT)
    finally:
        release.set()


def test_a_change_of_mig_mode_makes_no_gpu_silent(host: SimulatedHost) -> None:
    devices = devices_of()
    while [d.health for d in devices.discover()] != [DeviceHealth.FINE, DeviceHealth.FINE]:
        pass
    with QUIET.kept():
        for _ in range(3):
            assert [d.health for d in devices.discover()] == [DeviceHealth.FINE, DeviceHealth.FINE]
