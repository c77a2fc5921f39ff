"""Measures one GPU over a window through NVML.

GPM counts in hardware between two samples, so one sample at each end gives the mean of the whole
window (NVML wants at least 100 ms between them). Utilisation and power are gauges and are sampled.
Energy is the GPU's own counter if it has one (Volta and newer), else power x time.

Each window has a thread that makes all driver calls of the window. If a call hangs, its thread is
abandoned: the window has no figures, and the GPU is silent to every other look until the call ends.
"""

import contextlib
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import pynvml

from partitiond.core.errors import SilentError
from partitiond.platform.deadline_calls import DeadlineCalls, PendingCall

T = TypeVar("T")

log = logging.getLogger(__name__)

SAMPLE_SECONDS: Final = 0.25
"""The driver's utilisation is a mean over 1/6 to 1 s, so faster sampling tells nothing new."""
MIN_GPM_SECONDS: Final = 0.1

_GPM: Final[Mapping[str, int]] = {
    "sm_activity": pynvml.NVML_GPM_METRIC_SM_UTIL,
    "sm_occupancy": pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
    "dram_activity": pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
}

_FIGURES: Final = (
    "gpu_util", "sm_activity", "sm_occupancy", "dram_activity", "power_watts", "energy_joules",
)  # fmt: skip

_REASONS: Final[Mapping[int, str]] = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: "this GPU does not offer it",
    pynvml.NVML_ERROR_NO_PERMISSION: "the driver does not allow it to this user "
    "(run as root, or load it with NVreg_RestrictProfilingToAdminUsers=0)",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "the driver is too old",
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "there is no NVIDIA driver",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "NVIDIA's kernel module is not loaded",
    pynvml.NVML_ERROR_NOT_FOUND: "the GPU is gone",
}


def reason_of(error: Any) -> str:
    """Return an NVML error in words, for a profile's reader."""
    return _REASONS.get(int(error.value), f"NVML says: {error}")


@dataclasses.dataclass(slots=True)
class GpuFigures:
    """The figures of a window.

    Attributes:
        values: by field of `Telemetry`; only figures that a source told.
        missing: why a figure is missing, by field.
        sources: sources of the figures: "nvml", "nvml-gpm".
    """

    values: dict[str, float] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)
    sources: list[str] = dataclasses.field(default_factory=list)

    def add(self, source: str, values: Mapping[str, float]) -> None:
        """Add figures that no earlier source told."""
        fresh = {name: v for name, v in values.items() if name not in self.values}
        if fresh:
            self.values.update(fresh)
            self.sources.append(source)
            for name in fresh:
                self.missing.pop(name, None)


class GpuSampler:
    """Measures one window on one GPU. Methods block for some milliseconds, or until the deadline of
    looks if the driver hangs: call them in a thread.

    Args:
        uuid: UUID of the GPU.
        looks: makes the other looks at this GPU; its deadline also applies to opening and closing.
        period_seconds: time between two samples of the gauges.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        uuid: str,
        looks: DeadlineCalls,
        *,
        period_seconds: float = SAMPLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uuid = uuid
        self._looks = looks
        self._period = period_seconds
        self._clock = clock
        self._missing: dict[str, str] = {}
        self._gauges: dict[str, list[float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-telemetry", daemon=True)
        self._begun: Future[None] = Future()
        self._told: Future[GpuFigures] = Future()
        for answer in (self._begun, self._told):
            answer.set_running_or_notify_cancel()  # the thread answers even if no one waits
        self._silent = False
        self._handle: Any = None
        self._gpm: Any = None
        self._energy: float | None = None
        self._opened = 0.0

    def open(self) -> None:
        """Begin the window. If the GPU is silent already, no thread is started."""
        try:
            self._looks.ask(self._uuid, lambda: None)
        except SilentError as error:
            self._give_up(error)
            return
        self._thread.start()
        self._wait_for(self._begun)

    def close(self) -> GpuFigures:
        """End the window and return its figures; none if the driver hung."""
        self._stop.set()
        told = None if self._silent else self._wait_for(self._told)
        if told is None:
            return GpuFigures(missing=dict.fromkeys(_FIGURES, self._silence))
        self._thread.join()
        return told

    def _wait_for(self, answer: "Future[T]") -> T | None:
        """Return the thread's answer; None if it does not come in time.

        After a timeout, other looks at the GPU queue behind the thread: thus the GPU is silent to
        all of them, and no second thread enters the hanging call.
        """
        seconds = self._looks.seconds
        try:
            return PendingCall(self._uuid, answer, seconds, time.monotonic() + seconds).wait()
        except SilentError as error:
            self._give_up(error)
            self._looks.begin(self._uuid, self._thread.join)
            return None

    def _give_up(self, error: SilentError) -> None:
        self._silent = True
        self._stop.set()
        log.warning("measuring goes on without telemetry: %s", error)

    @property
    def _silence(self) -> str:
        return f"silent for {self._looks.seconds:g} s"

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        figures = GpuFigures(missing=self._missing)
        try:
            try:
                self._begin()
            finally:
                self._begun.set_result(None)
            self._sample()
            self._end(figures)
        except Exception as error:  # noqa: BLE001 - whoever closes the window gets it
            self._told.set_exception(error)
        else:
            self._told.set_result(figures)

    def _begin(self) -> None:
        with self._reasons(*_FIGURES):
            pynvml.nvmlInit()
            try:
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(self._uuid)
            except pynvml.NVMLError:
                pynvml.nvmlShutdown()
                raise
        if self._handle is not None:
            self._gpm = self._gpm_sample(*_GPM)
            self._energy = self._energy_joules()
        self._opened = self._clock()

    def _end(self, figures: GpuFigures) -> None:
        closed = self._clock()
        energy = self._energy_joules() if self._handle is not None else None
        try:
            figures.add("nvml-gpm", self._gpm_means(closed))
            figures.add("nvml", self._nvml_means(energy, closed - self._opened))
        finally:
            if self._handle is not None:
                with contextlib.suppress(pynvml.NVMLError):  # nothing depends on its result
                    pynvml.nvmlShutdown()

    # --- reading ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reasons(self, *figures: str) -> Iterator[None]:
        """Record why NVML refuses figures in the block; a refusal never fails the measurement."""
        try:
            yield
        except pynvml.NVMLError as error:
            for figure in figures:
                self._missing.setdefault(figure, reason_of(error))

    def _sample(self) -> None:
        """Sample gauges every period, until the window is closed."""
        while True:
            self._sample_gauges()
            if self._stop.wait(self._period):
                return

    def _sample_gauges(self) -> None:
        if self._handle is None:
            return
        with self._reasons("gpu_util"):
            rates = pynvml.nvmlDeviceGetUtilizationRates(self._handle)
            self._gauges.setdefault("gpu_util", []).append(rates.gpu / 100)
        with self._reasons("power_watts"):
            watts = pynvml.nvmlDeviceGetPowerUsage(self._handle) / 1000
            self._gauges.setdefault("power_watts", []).append(watts)

    def _energy_joules(self) -> float | None:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        except pynvml.NVMLError as error:
            self._missing.setdefault("energy_joules", reason_of(error))
            return None

    def _gpm_sample(self, *figures: str) -> Any:
        taken: Any = None
        with self._reasons(*figures):
            if not pynvml.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            sample = pynvml.nvmlGpmSampleAlloc()
            try:
                taken = pynvml.nvmlGpmSampleGet(self._handle, sample)
            except pynvml.NVMLError:
                pynvml.nvmlGpmSampleFree(sample)
                raise
        return taken

    # --- means over the window ----------------------------------------------------------------

    def _gpm_means(self, closed: float) -> dict[str, float]:
        if self._gpm is None:
            return {}
        if closed - self._opened < MIN_GPM_SECONDS:
            time.sleep(MIN_GPM_SECONDS)
        first, last = self._gpm, self._gpm_sample(*_GPM)
        values: dict[str, float] = {}
        try:
            if last is not None:
                with self._reasons(*_GPM):
                    values = self._gpm_values(first, last)
        finally:
            for sample in filter(None, (first, last)):
                with contextlib.suppress(pynvml.NVMLError):
                    pynvml.nvmlGpmSampleFree(sample)
        return values

    def _gpm_values(self, first: Any, last: Any) -> dict[str, float]:
        request = pynvml.c_nvmlGpmMetricsGet_t()
        request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(_GPM)
        request.sample1, request.sample2 = first, last
        for metric, number in zip(request.metrics, _GPM.values(), strict=False):
            metric.metricId = number
        pynvml.nvmlGpmMetricsGet(request)
        values = {}
        for name, metric in zip(_GPM, request.metrics, strict=False):
            if metric.nvmlReturn != pynvml.NVML_SUCCESS:
                self._missing.setdefault(name, reason_of(pynvml.NVMLError(metric.nvmlReturn)))
            elif math.isfinite(metric.value):
                values[name] = min(1.0, max(0.0, metric.value / 100))
            else:
                self._missing.setdefault(name, "the GPU gave no number")
        return values

    def _nvml_means(self, energy: float | None, seconds: float) -> dict[str, float]:
        values = {name: math.fsum(seen) / len(seen) for name, seen in self._gauges.items()}
        if self._energy is not None and energy is not None and energy > self._energy:
            values["energy_joules"] = energy - self._energy
            if seconds > 0:
                values["power_watts"] = values["energy_joules"] / seconds
        elif "power_watts" in values:
            values["energy_joules"] = values["power_watts"] * seconds
        return values
