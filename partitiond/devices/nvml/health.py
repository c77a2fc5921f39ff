"""Reads what the driver tells about a GPU's health. `core.hardware.health` judges it."""

from typing import Any, Final

import pynvml

from partitiond.core.hardware.health import HealthReadings, Throttle
from partitiond.devices.nvml.session import LOST, or_none

_THROTTLES: Final = (
    (pynvml.nvmlClocksThrottleReasonHwThermalSlowdown, Throttle.HW_THERMAL),
    (pynvml.nvmlClocksThrottleReasonSwThermalSlowdown, Throttle.SW_THERMAL),
    (pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, Throttle.POWER_BRAKE),
    (pynvml.nvmlClocksThrottleReasonHwSlowdown, Throttle.HW_SLOWDOWN),
)
"""Throttle reasons that mean a fault; a power cap, idleness and set clocks are not among them."""

_UNCORRECTED: Final = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
_DOUBLE_BIT: Final = pynvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR
_SINGLE_BIT: Final = pynvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS


def readings_of(handle: Any) -> HealthReadings:
    """Return all readings, None for each that this GPU or driver does not offer. Never raises."""
    lost = _unreachable(handle)
    if lost:
        return HealthReadings(unreachable=lost)
    remapped = or_none(pynvml.nvmlDeviceGetRemappedRows, handle)
    pending = or_none(pynvml.nvmlDeviceGetRetiredPagesPendingStatus, handle)
    slowdown = pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
    return HealthReadings(
        recovery=_recovery(handle),
        ecc_volatile=_ecc(handle, pynvml.NVML_VOLATILE_ECC),
        ecc_aggregate=_ecc(handle, pynvml.NVML_AGGREGATE_ECC),
        retired_pages=_retired_pages(handle),
        retirement_pending=None if pending is None else bool(pending),
        remapped_rows=None if remapped is None else int(remapped[1]),
        remap_pending=None if remapped is None else bool(remapped[2]),
        remap_failed=None if remapped is None else bool(remapped[3]),
        throttle=_throttle(handle),
        temperature_c=or_none(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        slowdown_c=or_none(pynvml.nvmlDeviceGetTemperatureThreshold, handle, slowdown),
    )


def _unreachable(handle: Any) -> str:
    """Return NVML's error text if the GPU does not answer the simplest query; else empty."""
    try:
        pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError as error:
        return str(error) if error.value in LOST else ""
    return ""


def _recovery(handle: Any) -> int | None:
    field = pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
    values = or_none(pynvml.nvmlDeviceGetFieldValues, handle, [field])
    if values is None or values[0].nvmlReturn != pynvml.NVML_SUCCESS:
        return None  # drivers before 550 do not know the field
    return int(values[0].value.uiVal)


def _ecc(handle: Any, counter: int) -> int | None:
    found: int | None = or_none(pynvml.nvmlDeviceGetTotalEccErrors, handle, _UNCORRECTED, counter)
    return found


def _retired_pages(handle: Any) -> int | None:
    lists = [
        or_none(pynvml.nvmlDeviceGetRetiredPages, handle, cause)
        for cause in (_SINGLE_BIT, _DOUBLE_BIT)
    ]
    return None if lists == [None, None] else sum(len(pages or ()) for pages in lists)


def _throttle(handle: Any) -> tuple[Throttle, ...]:
    reasons = or_none(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    if reasons is None:
        reasons = or_none(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle) or 0
    found = tuple(reason for bit, reason in _THROTTLES if reasons & bit)
    # The general bit is set with each specific hardware reason, so it adds nothing beside one.
    named = tuple(reason for reason in found if reason is not Throttle.HW_SLOWDOWN)
    return named or found
