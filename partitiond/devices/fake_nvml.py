"""An NVML that is not there: GPUs as data, behind the real binding. Shipped.

`pynvml` calls the functions of a loaded C library by name. This object stands in that library's
place, so that discovery, telemetry and their errors go through the binding's own structures and
checks, on a machine without driver or GPU. It refuses what NVML refuses: a figure that is set to
an error code answers with it.
"""

import contextlib
import ctypes
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pynvml

from partitiond.core.units import GIB

_GPM_VALUES: Final = {
    pynvml.NVML_GPM_METRIC_SM_UTIL: "sm_activity",
    pynvml.NVML_GPM_METRIC_SM_OCCUPANCY: "sm_occupancy",
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL: "dram_activity",
}


@dataclasses.dataclass
class FakeGpu:
    """One GPU and what it says now; change it while it is in use.

    Attributes:
        total_bytes, used_bytes, reserved_bytes: memory.
        gpm: whether it has GPM (Hopper and newer).
        sm_activity, sm_occupancy, dram_activity, gpu_util: shares, 0..1.
        power_watts: what it draws; its energy counter grows by it.
        energy_counter: whether it has one (Volta and newer).
        processes: pid and bytes of each process with a compute context.
        refuses: NVML error code by function name, as {"nvmlGpmSampleGet": 4}.
    """

    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    name: str = "NVIDIA H200"
    total_bytes: int = 143_771 << 20
    used_bytes: int = 0
    reserved_bytes: int = 600 << 20
    gpm: bool = True
    sm_activity: float = 0.3
    sm_occupancy: float = 0.1
    dram_activity: float = 0.2
    gpu_util: float = 0.9
    power_watts: float = 250.0
    energy_counter: bool = True
    mig: bool = False
    processes: Sequence[tuple[int, int]] = ()
    refuses: dict[str, int] = dataclasses.field(default_factory=dict)


class FakeNvml:
    """The functions of libnvidia-ml.so.1 that partitiond calls.

    Args:
        gpus: by index.
        driver: driver version.
        clock: seconds that only grow, for the energy counters.
    """

    def __init__(
        self,
        gpus: Sequence[FakeGpu],
        *,
        driver: str = "580.00.fake",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gpus = list(gpus)
        self.initialised = 0
        self.samples_alive = 0
        self._driver = driver
        self._clock = clock
        self._samples: dict[int, float | None] = {}
        self._next_sample = 1

    @contextlib.contextmanager
    def installed(self) -> Iterator["FakeNvml"]:
        """Stand in the real library's place until the end of the block, for all threads."""
        library, cache = pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache)
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml.nvmlLib = self
        try:
            yield self
        finally:
            pynvml.nvmlLib = library
            pynvml._nvmlGetFunctionPointer_cache.clear()
            pynvml._nvmlGetFunctionPointer_cache.update(cache)

    def __getattr__(self, name: str) -> Callable[..., int]:
        """The C function `name`; AttributeError where this fake has none, as from a library."""
        found = _FUNCTIONS.get(name)
        if found is None:
            raise AttributeError(name)
        return lambda *arguments: self._call(name, found, arguments)

    def _call(
        self, name: str, function: Callable[..., int | None], arguments: tuple[Any, ...]
    ) -> int:
        if not self.initialised and name != "nvmlInitWithFlags":
            return int(pynvml.NVML_ERROR_UNINITIALIZED)
        if arguments and name.startswith(("nvmlDevice", "nvmlGpm")):
            gpu = self._gpu(arguments[0])
            if gpu is not None and name in gpu.refuses:
                return gpu.refuses[name]
        # Threads sample at the same time; each call is one step of the interpreter's lock.
        return int(function(self, *arguments) or pynvml.NVML_SUCCESS)

    def _gpu(self, handle: Any) -> FakeGpu | None:
        if not isinstance(handle, pynvml.c_nvmlDevice_t):
            return None
        index = ctypes.cast(handle, ctypes.c_void_p).value
        return self.gpus[index - 1] if index and index <= len(self.gpus) else None

    def _energy_mj(self, gpu: FakeGpu) -> int:
        return round(1000 * gpu.power_watts * self._clock())

    # --- the functions, with the arguments of nvml.h ------------------------------------------

    def _init(self, _flags: int) -> None:
        self.initialised += 1

    def _shutdown(self) -> None:
        self.initialised -= 1

    def _driver_version(self, text: Any, _size: Any) -> None:
        text.value = self._driver.encode()

    def _count(self, count: Any) -> None:
        count._obj.value = len(self.gpus)

    def _by_index(self, index: Any, handle: Any) -> int | None:
        number = int(getattr(index, "value", index))
        if number >= len(self.gpus):
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        _set_pointer(handle._obj, number + 1)
        return None

    def _by_uuid(self, uuid: Any, handle: Any) -> int | None:
        text = getattr(uuid, "value", uuid)
        for index, gpu in enumerate(self.gpus):
            if gpu.uuid.encode() == text:
                _set_pointer(handle._obj, index + 1)
                return None
        return int(pynvml.NVML_ERROR_NOT_FOUND)

    def _name(self, handle: Any, text: Any, _size: Any) -> None:
        text.value = self._known(handle).name.encode()

    def _uuid(self, handle: Any, text: Any, _size: Any) -> None:
        text.value = self._known(handle).uuid.encode()

    def _index(self, handle: Any, index: Any) -> None:
        index._obj.value = self.gpus.index(self._known(handle))

    def _memory(self, handle: Any, info: Any) -> None:
        gpu, answer = self._known(handle), info._obj
        answer.total, answer.used = gpu.total_bytes, gpu.used_bytes
        if hasattr(answer, "reserved"):
            answer.reserved = gpu.reserved_bytes
        answer.free = gpu.total_bytes - gpu.used_bytes - gpu.reserved_bytes

    def _mig_mode(self, handle: Any, current: Any, pending: Any) -> None:
        current._obj.value = pending._obj.value = int(self._known(handle).mig)

    def _processes(self, handle: Any, count: Any, answer: Any) -> int | None:
        processes = self._known(handle).processes
        room, count._obj.value = count._obj.value, len(processes)
        if room < len(processes):
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
        for place, (pid, used_bytes) in enumerate(processes):
            answer[place].pid, answer[place].usedGpuMemory = pid, used_bytes
        return None

    def _utilization(self, handle: Any, rates: Any) -> int | None:
        gpu = self._known(handle)
        if gpu.mig:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        rates._obj.gpu = round(100 * gpu.gpu_util)
        rates._obj.memory = round(100 * gpu.dram_activity)
        return None

    def _power(self, handle: Any, milliwatts: Any) -> None:
        milliwatts._obj.value = round(1000 * self._known(handle).power_watts)

    def _energy(self, handle: Any, millijoules: Any) -> int | None:
        gpu = self._known(handle)
        if not gpu.energy_counter:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        millijoules._obj.value = self._energy_mj(gpu)
        return None

    def _gpm_support(self, handle: Any, support: Any) -> None:
        support._obj.isSupportedDevice = int(self._known(handle).gpm)

    def _gpm_alloc(self, sample: Any) -> None:
        number = self._next_sample
        self._next_sample += 1
        self._samples[number] = None
        self.samples_alive += 1
        _set_pointer(sample._obj, number)

    def _gpm_free(self, sample: Any) -> None:
        del self._samples[_pointer(sample)]
        self.samples_alive -= 1

    def _gpm_sample(self, handle: Any, sample: Any) -> int | None:
        if not self._known(handle).gpm:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        self._samples[_pointer(sample)] = self._clock()
        self._sampled = self._known(handle)
        return None

    def _gpm_metrics(self, request: Any) -> int | None:
        asked = request._obj
        times = [self._samples.get(_pointer(s)) for s in (asked.sample1, asked.sample2)]
        if times[0] is None or times[1] is None or times[1] < times[0]:
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        for metric in asked.metrics[: asked.numMetrics]:
            name = _GPM_VALUES.get(metric.metricId)
            metric.nvmlReturn = (
                pynvml.NVML_SUCCESS if name is not None else pynvml.NVML_ERROR_NOT_SUPPORTED
            )
            metric.value = 100 * getattr(self._sampled, name) if name is not None else 0.0
        return None

    def _known(self, handle: Any) -> FakeGpu:
        gpu = self._gpu(handle)
        if gpu is None:  # a handle nobody was given: a fault of the caller's
            raise ValueError("no such device handle")
        return gpu


_FUNCTIONS: Final[dict[str, Callable[..., int | None]]] = {
    "nvmlInitWithFlags": FakeNvml._init,
    "nvmlShutdown": FakeNvml._shutdown,
    "nvmlSystemGetDriverVersion": FakeNvml._driver_version,
    "nvmlDeviceGetCount_v2": FakeNvml._count,
    "nvmlDeviceGetHandleByIndex_v2": FakeNvml._by_index,
    "nvmlDeviceGetHandleByUUID": FakeNvml._by_uuid,
    "nvmlDeviceGetName": FakeNvml._name,
    "nvmlDeviceGetUUID": FakeNvml._uuid,
    "nvmlDeviceGetIndex": FakeNvml._index,
    "nvmlDeviceGetMemoryInfo": FakeNvml._memory,
    "nvmlDeviceGetMemoryInfo_v2": FakeNvml._memory,
    "nvmlDeviceGetMigMode": FakeNvml._mig_mode,
    "nvmlDeviceGetComputeRunningProcesses_v3": FakeNvml._processes,
    "nvmlDeviceGetUtilizationRates": FakeNvml._utilization,
    "nvmlDeviceGetPowerUsage": FakeNvml._power,
    "nvmlDeviceGetTotalEnergyConsumption": FakeNvml._energy,
    "nvmlGpmQueryDeviceSupport": FakeNvml._gpm_support,
    "nvmlGpmSampleAlloc": FakeNvml._gpm_alloc,
    "nvmlGpmSampleFree": FakeNvml._gpm_free,
    "nvmlGpmSampleGet": FakeNvml._gpm_sample,
    "nvmlGpmMetricsGet": FakeNvml._gpm_metrics,
}


def _set_pointer(target: Any, value: int) -> None:
    """Let an opaque pointer point at `value`, as the library does with its handles."""
    ctypes.cast(ctypes.byref(target), ctypes.POINTER(ctypes.c_void_p))[0] = value


def _pointer(handle: Any) -> int:
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)


def fake_h200(memory_gib: float = 140.4) -> FakeGpu:
    """An H200 that does nothing much."""
    return FakeGpu(total_bytes=round(memory_gib * GIB))
