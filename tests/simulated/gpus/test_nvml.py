"""The simulated NVML shows its contents and its events through the real binding."""

import ctypes
import os
from pathlib import Path

import pynvml
import pytest

from partitiond.simulated.gpus import SimulatedHost, shipped_descriptions

GIB = 1 << 30


def handle(host: SimulatedHost, index: int = 0) -> object:
    return pynvml.nvmlDeviceGetHandleByUUID(host.uuids()[index])


@pytest.mark.parametrize("name", sorted(shipped_descriptions()))
def test_every_shipped_host_is_there(name: str, tmp_path: Path) -> None:
    host = SimulatedHost.create(name, tmp_path / "host")
    with host.installed():
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() == shipped_descriptions()[name].count
        found = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(len(host.uuids()))]
        assert tuple(pynvml.nvmlDeviceGetUUID(gpu) for gpu in found) == host.uuids()
        assert len({pynvml.nvmlDeviceGetPciInfo(gpu).busId for gpu in found}) == len(found)
        pynvml.nvmlShutdown()


def test_nothing_is_told_before_nvml_is_started(host: SimulatedHost) -> None:
    with host.installed(), pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


def test_without_driver_nvml_does_not_start(host: SimulatedHost) -> None:
    host.driver(loaded=False)
    with host.installed(), pytest.raises(pynvml.NVMLError_DriverNotLoaded):
        pynvml.nvmlInit()


def test_figures_of_an_a100(nvml: SimulatedHost) -> None:
    gpu = handle(nvml)
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2)
    assert memory.total == 80 * GIB
    assert memory.total == memory.free + memory.used + memory.reserved
    first = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    assert (first.free, first.used) == (memory.free, memory.reserved)
    assert pynvml.nvmlDeviceGetName(gpu) == "NVIDIA A100-SXM4-80GB"
    assert pynvml.nvmlDeviceGetCudaComputeCapability(gpu) == (8, 0)
    assert pynvml.nvmlDeviceGetArchitecture(gpu) == pynvml.NVML_DEVICE_ARCH_AMPERE
    with pytest.raises(pynvml.NVMLError_NotSupported):  # of MIG devices only
        pynvml.nvmlDeviceGetAttributes_v2(gpu)
    assert pynvml.nvmlDeviceGetNumGpuCores(gpu) == 6912
    assert pynvml.nvmlSystemGetCudaDriverVersion() == 13000
    assert pynvml.nvmlSystemGetDriverVersion() == "580.95.05"
    assert pynvml.nvmlErrorString(19) == "In use by another client"
    assert pynvml.nvmlSystemGetProcessName(os.getpid())


def test_memory_info_of_a_wrong_version_is_refused(nvml: SimulatedHost) -> None:
    with pytest.raises(pynvml.NVMLError) as refused:
        pynvml.nvmlDeviceGetMemoryInfo(handle(nvml), version=0x03000028)
    assert refused.value.value == pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH


def test_a_handle_nobody_was_given_is_refused(nvml: SimulatedHost) -> None:
    made_up = ctypes.cast(ctypes.c_void_p(4711), pynvml.c_nvmlDevice_t)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetName(made_up)


def test_a_gpu_is_found_by_its_bus(nvml: SimulatedHost) -> None:
    for index, uuid in enumerate(nvml.uuids()):
        bus = pynvml.nvmlDeviceGetPciInfo(handle(nvml, index)).busId
        found = pynvml.nvmlDeviceGetHandleByPciBusId(bus)
        assert pynvml.nvmlDeviceGetUUID(found) == uuid
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByPciBusId("0000:01:00.0")


def test_processes_are_listed_with_what_they_hold(nvml: SimulatedHost) -> None:
    nvml.add_process(nvml.uuids()[0], os.getpid(), 3 * GIB)
    nvml.add_process(nvml.uuids()[0], 1 << 22, 2 * GIB, mps=True)  # of another container
    gpu = handle(nvml)
    listed = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    assert {p.pid: p.usedGpuMemory for p in listed} == {os.getpid(): 3 * GIB, 1 << 22: 2 * GIB}
    assert {p.gpuInstanceId for p in listed} == {0xFFFFFFFF}
    assert [p.pid for p in pynvml.nvmlDeviceGetMPSComputeRunningProcesses(gpu)] == [1 << 22]
    assert pynvml.nvmlDeviceGetGraphicsRunningProcesses(gpu) == []
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle(nvml, 1)) == []
    nvml.remove_process(nvml.uuids()[0], 1 << 22)
    assert nvml.used_bytes(nvml.uuids()[0]) == 3 * GIB


def test_a_lost_gpu_answers_nothing_and_the_others_go_on(nvml: SimulatedHost) -> None:
    gpu = handle(nvml)
    nvml.lose(nvml.uuids()[0])
    for ask in (pynvml.nvmlDeviceGetName, pynvml.nvmlDeviceGetMemoryInfo):
        with pytest.raises(pynvml.NVMLError_GpuIsLost):
            ask(gpu)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceGetName(handle(nvml, 1))
    nvml.restore(nvml.uuids()[0])
    assert pynvml.nvmlDeviceGetName(gpu)


def test_calls_fail_as_asked(nvml: SimulatedHost) -> None:
    gpu, other = handle(nvml), handle(nvml, 1)
    nvml.fail("nvmlDeviceGetName", pynvml.NVML_ERROR_UNKNOWN, uuid=nvml.uuids()[0], after=1)
    assert pynvml.nvmlDeviceGetName(gpu)
    assert pynvml.nvmlDeviceGetName(other)
    with pytest.raises(pynvml.NVMLError_Unknown):
        pynvml.nvmlDeviceGetName(gpu)
    assert pynvml.nvmlDeviceGetName(gpu)
    nvml.fail("nvmlDeviceGet*", pynvml.NVML_ERROR_TIMEOUT, times=-1)
    for _ in range(3):
        with pytest.raises(pynvml.NVMLError_Timeout):
            pynvml.nvmlDeviceGetIndex(gpu)
    nvml.heal()
    assert pynvml.nvmlDeviceGetIndex(gpu) == 0


def test_xid_errors_reach_who_waits_for_them(nvml: SimulatedHost) -> None:
    events = pynvml.nvmlEventSetCreate()
    nvml.xid(nvml.uuids()[0], 13)  # before anyone asked
    pynvml.nvmlDeviceRegisterEvents(handle(nvml), pynvml.nvmlEventTypeXidCriticalError, events)
    nvml.xid(nvml.uuids()[1], 48)  # of a GPU nobody asked about
    nvml.xid(nvml.uuids()[0], 31)
    first = pynvml.nvmlEventSetWait_v2(events, 1000)
    assert first.eventType == pynvml.nvmlEventTypeXidCriticalError
    assert [first.eventData, pynvml.nvmlDeviceGetUUID(first.device)] == [31, nvml.uuids()[0]]
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait_v2(events, 1)
    nvml.lose(nvml.uuids()[0])
    assert pynvml.nvmlEventSetWait_v2(events, 1000).eventData == 79
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlEventSetWait_v2(events, 1000)
    pynvml.nvmlEventSetFree(events)


def test_health_is_told_as_it_is_set(nvml: SimulatedHost) -> None:
    gpu, uuid = handle(nvml), nvml.uuids()[0]
    nvml.set_health(uuid, ecc=2, retired=1, throttle=0x40, remapped_pending=1, temperature_c=91)
    uncorrected = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    count = pynvml.nvmlDeviceGetTotalEccErrors(gpu, uncorrected, pynvml.NVML_VOLATILE_ECC)
    assert count == 2
    assert pynvml.nvmlDeviceGetRemappedRows(gpu) == (0, 1, 1, 0)
    reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
    assert reasons == pynvml.nvmlClocksEventReasonHwThermalSlowdown
    assert pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU) == 91
    assert pynvml.nvmlDeviceGetTemperatureV(gpu, pynvml.NVML_TEMPERATURE_GPU) == 91
    assert pynvml.nvmlDeviceGetEccMode(gpu) == [1, 1]
    with pytest.raises(pynvml.NVMLError_NotSupported):  # rows are remapped in their place
        pynvml.nvmlDeviceGetRetiredPages(gpu, pynvml.NVML_PAGE_RETIREMENT_CAUSE_COUNT - 1)


def test_the_energy_counter_grows_with_power(nvml: SimulatedHost) -> None:
    gpu, uuid = handle(nvml), nvml.uuids()[0]
    nvml.set_load(uuid, power_watts=1e6)
    before = pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    nvml.set_load(uuid, power_watts=100.0)
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) >= before
    assert pynvml.nvmlDeviceGetPowerUsage(gpu) == 100_000
    nvml.set_load(uuid, energy_counter=0)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)


def test_power_limits_are_kept_and_want_root(nvml: SimulatedHost) -> None:
    gpu = handle(nvml)
    lowest, highest = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu)
    pynvml.nvmlDeviceSetPowerManagementLimit(gpu, lowest)
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) == lowest
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceSetPowerManagementLimit(gpu, highest + 1)
    nvml.privileged(False)
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceSetPowerManagementLimit(gpu, highest)


def test_metrics_between_two_samples(tmp_path: Path) -> None:
    host = SimulatedHost.create("h100-80gb-x4", tmp_path / "host")
    with host.installed():
        pynvml.nvmlInit()
        gpu = handle(host)
        assert pynvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice
        host.set_load(host.uuids()[0], sm_activity=0.5, sm_occupancy=0.25, dram_activity=0.1)
        samples = [pynvml.nvmlGpmSampleAlloc() for _ in range(2)]
        for sample in samples:
            pynvml.nvmlGpmSampleGet(gpu, sample)
        asked = pynvml.c_nvmlGpmMetricsGet_t()
        asked.version, asked.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, 3
        asked.sample1, asked.sample2 = samples
        for metric, number in zip(asked.metrics, (2, 3, 10), strict=False):
            metric.metricId = number
        pynvml.nvmlGpmMetricsGet(asked)
        assert [m.value for m in asked.metrics[:3]] == pytest.approx([50, 25, 10])
        for sample in samples:
            pynvml.nvmlGpmSampleFree(sample)
        pynvml.nvmlShutdown()


def test_an_a100_has_no_metrics(nvml: SimulatedHost) -> None:
    gpu, sample = handle(nvml), pynvml.nvmlGpmSampleAlloc()
    assert not pynvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlGpmSampleGet(gpu, sample)
    pynvml.nvmlGpmSampleFree(sample)


def test_places_of_gpus(tmp_path: Path) -> None:
    host = SimulatedHost.create("a100-80gb-x8", tmp_path / "host")
    with host.installed():
        pynvml.nvmlInit()
        gpus = [handle(host, index) for index in range(8)]
        levels = [pynvml.nvmlDeviceGetTopologyCommonAncestor(gpus[0], gpu) for gpu in gpus]
        assert levels == [0, 20, 40, 40, 50, 50, 50, 50]
        assert [pynvml.nvmlDeviceGetMemoryAffinity(gpu, 1, 0)[0] for gpu in gpus] == [1] * 4 + [
            2
        ] * 4
        cores = pynvml.nvmlDeviceGetCpuAffinity(gpus[0], 16)
        seen = {
            64 * word + bit for word in range(16) for bit in range(64) if cores[word] >> bit & 1
        }
        assert seen == set(range(64))  # the host's 128 cores, half of them at each node
        assert all(pynvml.nvmlDeviceGetNvLinkState(gpus[0], link) for link in range(12))
        kind = pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(gpus[0], 0)
        assert kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH
        assert pynvml.nvmlDeviceGetNvLinkRemotePciInfo(gpus[0], 0).busId
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            pynvml.nvmlDeviceGetNvLinkState(gpus[0], 12)
        pynvml.nvmlShutdown()


def test_fields_by_number(nvml: SimulatedHost) -> None:
    nvml.set_health(nvml.uuids()[0], ecc=7)
    asked = [pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL, pynvml.NVML_FI_DEV_POWER_CURRENT_LIMIT, 999]
    volatile, limit, unknown = pynvml.nvmlDeviceGetFieldValues(handle(nvml), asked)
    assert volatile.value.ullVal == 7
    assert limit.value.uiVal == 400_000
    assert unknown.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED
