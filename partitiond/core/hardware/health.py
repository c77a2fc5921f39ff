"""Judges the health of a GPU from its driver's readings and messages.

    fine       no fault is known
    degraded   the GPU works, with less than it should have; replicas stay
    failed     work on the GPU is wrong, broken or about to be: it is cordoned with the reason
    silent     the driver does not answer, so the state is unknown: nothing starts there, and
               running engines are left alone

Readings that a GPU or a driver does not offer are None and are ignored. Sources: NVIDIA's
Xid catalog and its page on Xid messages (docs.nvidia.com/deploy/xid-errors), on error management
of GPU memory (docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt) and on dynamic page retirement.
"""

import dataclasses
import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final


class DeviceHealth(enum.StrEnum):
    """State of a GPU; see the module."""

    FINE = "fine"
    DEGRADED = "degraded"
    FAILED = "failed"
    SILENT = "silent"


_RESTART: Final = "The process it hit has to be started again; the GPU is well."
_RESET: Final = (
    "Stop what uses the GPU, the daemon included, and reset it (nvidia-smi --gpu-reset)."
)
_REBOOT: Final = "Reboot the host; if it comes back, check seating, power and cooling of the GPU."
_VENDOR: Final = "Have the GPU tested (dcgmi diag -r 3) and ask its vendor about a replacement."
_IDLE_RESET: Final = "It takes effect with the next reset of the GPU: plan one while it is idle."


@dataclasses.dataclass(frozen=True, slots=True)
class XidMeaning:
    """Meaning of one Xid code.

    Attributes:
        level: health of the GPU after this message.
        words: what happened.
        advice: what to do.
        driver_decides: the driver may have handled the error; if it reports that no recovery is
            needed, the GPU is only degraded.
    """

    code: int
    level: DeviceHealth
    words: str
    advice: str
    driver_decides: bool = False


def _meanings() -> Iterator[XidMeaning]:
    fine, degraded, failed = DeviceHealth.FINE, DeviceHealth.DEGRADED, DeviceHealth.FAILED
    for code, words in (
        (8, "a process stopped making progress on the GPU"),
        (11, "a process sent an invalid command stream"),
        (13, "a process ran an illegal instruction or address (graphics engine exception)"),
        (31, "a process touched memory that is not its own (page fault)"),
        (39, "a copy engine exception in a process"),
        (40, "a copy engine exception in a process"),
        (41, "a copy engine exception in a process"),
        (43, "a process made the GPU stop its work"),
        (45, "the driver cleaned up after a process that ended or failed"),
        (68, "a video decoder exception in a process"),
        (69, "a graphics engine class error in a process"),
    ):
        yield XidMeaning(code, fine, words, _RESTART)
    yield XidMeaning(32, degraded, "a corrupted command stream", _RESTART)
    yield XidMeaning(38, failed, "the driver's firmware failed", _RESET)
    yield XidMeaning(46, failed, "the GPU stopped processing", _RESET)
    yield XidMeaning(48, failed, "a memory error that cannot be corrected", _RESET, True)
    yield XidMeaning(54, failed, "auxiliary power is not connected", _REBOOT)
    yield XidMeaning(61, failed, "the internal microcontroller stopped", _RESET)
    yield XidMeaning(62, failed, "the internal microcontroller halted", _RESET)
    yield XidMeaning(63, degraded, "a memory row or page is to be retired", _IDLE_RESET)
    yield XidMeaning(64, failed, "retiring a memory row or page failed", _VENDOR)
    yield XidMeaning(74, failed, "an NVLink error", _RESET, True)
    yield XidMeaning(79, failed, "the GPU fell off the bus", _REBOOT)
    yield XidMeaning(92, degraded, "many single-bit memory errors", _VENDOR)
    yield XidMeaning(94, degraded, "a memory error, contained in one process", _IDLE_RESET)
    yield XidMeaning(95, failed, "a memory error that was not contained", _RESET)
    yield XidMeaning(109, degraded, "switching between processes timed out", _RESET)
    yield XidMeaning(110, failed, "a security fault", _RESET)
    yield XidMeaning(119, failed, "the GPU's system processor does not answer", _RESET)
    yield XidMeaning(120, failed, "the GPU's system processor failed", _RESET)
    yield XidMeaning(121, degraded, "an error on the link to the CPU", _VENDOR)
    yield XidMeaning(136, failed, "training an NVLink failed", _RESET, True)
    yield XidMeaning(140, failed, "a memory error that was not recovered", _RESET)
    yield XidMeaning(143, failed, "the GPU did not initialise", _RESET)
    for code in range(144, 151):
        yield XidMeaning(code, failed, "an NVLink error", _RESET, True)
    yield XidMeaning(154, fine, "the driver's advice for recovery changed", "See below.")
    yield XidMeaning(156, degraded, "a part of the GPU is to be retired", _IDLE_RESET)
    yield XidMeaning(157, failed, "retiring a part of the GPU failed", _VENDOR)
    yield XidMeaning(158, failed, "the GPU timed out for good", _RESET)
    yield XidMeaning(167, failed, "PCIe timed out for good", _REBOOT)


XIDS: Final[Mapping[int, XidMeaning]] = {meaning.code: meaning for meaning in _meanings()}
"""The known codes, by code."""


def xid_meaning(code: int) -> XidMeaning:
    """Return the meaning of a code; an unknown code degrades the GPU, as it may be harmful."""
    return XIDS.get(code) or XidMeaning(
        code,
        DeviceHealth.DEGRADED,
        "a message that is not known here",
        "Look it up in NVIDIA's Xid catalog.",
    )


@dataclasses.dataclass(frozen=True, slots=True)
class XidEvent:
    """A message of the driver about one GPU.

    Attributes:
        at: ISO 8601 UTC.
        gpu_instance: id of the GPU instance it is about; None for the GPU as a whole.
    """

    device_id: str
    code: int
    at: str
    gpu_instance: int | None = None


class Recovery(enum.IntEnum):
    """Recovery that a GPU needs, as the driver reports it (NVML's recovery action)."""

    NONE = 0
    GPU_RESET = 1
    NODE_REBOOT = 2
    DRAIN_P2P = 3
    DRAIN_AND_RESET = 4
    RECOVER_IMEX_DOMAIN = 5
    BUS_RESET = 6
    SYSTEM_REBOOT = 7


class Throttle(enum.StrEnum):
    """Reasons for reduced clocks of a GPU that mean a fault."""

    HW_THERMAL = "too hot (hardware slowdown)"
    SW_THERMAL = "too hot (driver slowdown)"
    POWER_BRAKE = "the power supply asked it to slow down"
    HW_SLOWDOWN = "hardware slowdown"


@dataclasses.dataclass(frozen=True, slots=True)
class HealthReadings:
    """The driver's readings of one GPU; None for those that it does not report.

    Attributes:
        unreachable: NVML's message if the GPU does not answer; empty if it does.
        recovery: NVML's recovery action, a number of `Recovery`.
        ecc_volatile: uncorrected memory errors since the driver was loaded.
        ecc_aggregate: uncorrected memory errors in the GPU's life.
        retired_pages: pages retired in the GPU's life (GPUs before Ampere).
        retirement_pending: pages wait for a reset to be retired.
        remapped_rows: rows remapped for uncorrectable errors (Ampere and newer).
        remap_pending: rows wait for a reset to be remapped.
        remap_failed: remapping a row failed.
        temperature_c: of the GPU.
        slowdown_c: temperature at which the GPU slows down.
    """

    unreachable: str = ""
    recovery: int | None = None
    ecc_volatile: int | None = None
    ecc_aggregate: int | None = None
    retired_pages: int | None = None
    retirement_pending: bool | None = None
    remapped_rows: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    throttle: tuple[Throttle, ...] = ()
    temperature_c: int | None = None
    slowdown_c: int | None = None


NOTHING_TOLD: Final = HealthReadings()
"""Readings of a device whose driver reports none."""


@dataclasses.dataclass(frozen=True, slots=True)
class HealthFinding:
    """One known fault of a GPU, and what to do about it."""

    level: DeviceHealth
    what: str
    advice: str


MAX_RETIRED_PAGES: Final = 60
"""At this number of pages NVIDIA exchanges a GPU; its drivers can retire 64."""

_SEVERITY: Final = {DeviceHealth.FINE: 0, DeviceHealth.DEGRADED: 1, DeviceHealth.FAILED: 2}


@dataclasses.dataclass(frozen=True, slots=True)
class HealthVerdict:
    """Judgement of a GPU.

    Attributes:
        findings: worst first.
    """

    findings: tuple[HealthFinding, ...] = ()

    @property
    def health(self) -> DeviceHealth:
        """The worst level of the findings."""
        return self.findings[0].level if self.findings else DeviceHealth.FINE

    @property
    def reason(self) -> str:
        """Why the GPU is not fine, worst finding first; empty if it is fine."""
        said: list[str] = []
        for found in self.findings:
            if found.level is not DeviceHealth.FINE:
                advice = () if found.advice in said else (found.advice,)
                said += [f"{found.what}.", *advice]
        return " ".join(said)


def judge(readings: HealthReadings, xids: Sequence[XidEvent] = ()) -> HealthVerdict:
    """Judge a GPU by its readings and the driver's messages together.

    Args:
        xids: about this GPU, since it was last declared healthy; in any order.
    """
    found = [
        *_reachable(readings),
        *_recovery(readings),
        *_of_xids({event.code for event in xids}, readings),
        *_memory(readings),
        *_clocks(readings),
    ]
    return HealthVerdict(tuple(sorted(found, key=lambda f: -_SEVERITY[f.level])))


def _reachable(readings: HealthReadings) -> Iterator[HealthFinding]:
    if readings.unreachable:
        yield HealthFinding(
            DeviceHealth.FAILED, f"the GPU does not answer: {readings.unreachable}", _REBOOT
        )


def _recovery(readings: HealthReadings) -> Iterator[HealthFinding]:
    failed, degraded = DeviceHealth.FAILED, DeviceHealth.DEGRADED
    match readings.recovery:
        case None | Recovery.NONE:
            return
        case Recovery.GPU_RESET | Recovery.BUS_RESET:
            yield HealthFinding(failed, "the driver says that the GPU has to be reset", _RESET)
        case Recovery.NODE_REBOOT | Recovery.SYSTEM_REBOOT:
            yield HealthFinding(failed, "the driver says that the host has to be rebooted", _REBOOT)
        case Recovery.DRAIN_AND_RESET:
            yield HealthFinding(
                degraded, "the driver wants to reset the GPU once it is idle", _IDLE_RESET
            )
        case _:
            advice = "See nvidia-smi -q, GPU Recovery Action."
            yield HealthFinding(degraded, "the driver asks for a recovery of its links", advice)


def _of_xids(codes: Collection[int], readings: HealthReadings) -> Iterator[HealthFinding]:
    for code in sorted(codes):
        meaning = xid_meaning(code)
        level = meaning.level
        if meaning.driver_decides and readings.recovery == Recovery.NONE:
            level = min(level, DeviceHealth.DEGRADED, key=_SEVERITY.__getitem__)
        yield HealthFinding(level, f"Xid {code}: {meaning.words}", meaning.advice)


def _memory(readings: HealthReadings) -> Iterator[HealthFinding]:
    if readings.remap_failed:
        yield HealthFinding(DeviceHealth.FAILED, "a memory row could not be remapped", _VENDOR)
    if readings.remap_pending:
        yield HealthFinding(DeviceHealth.DEGRADED, "memory rows wait to be remapped", _IDLE_RESET)
    if readings.retirement_pending:
        yield HealthFinding(DeviceHealth.DEGRADED, "memory pages wait to be retired", _IDLE_RESET)
    if (readings.retired_pages or 0) >= MAX_RETIRED_PAGES:
        what = f"{readings.retired_pages} memory pages are retired"
        yield HealthFinding(DeviceHealth.DEGRADED, what, _VENDOR)
    if readings.ecc_volatile:
        what = f"{readings.ecc_volatile} memory errors could not be corrected since the driver "
        yield HealthFinding(DeviceHealth.DEGRADED, what + "was loaded", _IDLE_RESET)


def _clocks(readings: HealthReadings) -> Iterator[HealthFinding]:
    if readings.throttle:
        degrees = "" if readings.temperature_c is None else f" at {readings.temperature_c} °C"
        what = f"it runs below its clocks{degrees}: {', '.join(readings.throttle)}"
        advice = "Check cooling and power; figures of profiles do not hold until then."
        yield HealthFinding(DeviceHealth.DEGRADED, what, advice)


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceFault:
    """A fault that broke all engines of a device at once.

    Attributes:
        device_id: the fault domain: nothing starts there until all its engines are gone.
        reason: what happened, and what recovery takes.
    """

    device_id: str
    reason: str
