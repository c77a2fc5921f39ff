"""Defines all that is reported of one GPU, for people who look after it."""

import dataclasses

from partitiond.core.hardware.health import NOTHING_TOLD, HealthReadings, XidEvent
from partitiond.core.hardware.kinds import Device


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceDetails:
    """One device and what its driver tells beside what plans need.

    None, 0 and empty stand for what the GPU or its driver does not tell. Of a CPU only `device`
    is told.

    Attributes:
        architecture: "ampere", "hopper", ...
        compute_capability: "8.0".
        pci_bus_id: "00000000:07:00.0".
        compute_mode: "default", "exclusive-process" or "prohibited".
        mig_mode, mig_pending: "on", "off", or empty where it has no MIG; the pending mode holds
            after the next reset.
        persistence: the driver stays loaded without clients.
        power_watts, power_limit_watts: drawn now, and allowed.
        energy_joules: since the driver was loaded.
        ours_bytes: device memory of this daemon's engines and MPS servers.
        hidden_bytes: memory in use by processes that cannot be seen from here, as from within a
            container.
    """

    device: Device
    readings: HealthReadings = NOTHING_TOLD
    xids: tuple[XidEvent, ...] = ()
    architecture: str = ""
    compute_capability: str = ""
    pci_bus_id: str = ""
    compute_mode: str = ""
    mig_mode: str = ""
    mig_pending: str = ""
    persistence: bool | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_joules: float | None = None
    ours_bytes: int = 0
    hidden_bytes: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceReading:
    """The reading of one device; None for what the device does not report.

    Attributes:
        used_bytes: memory in use by any process.
        watts: power drawn now.
        busy_share: on a GPU the share of time any kernel ran, on a CPU of cores in use; 0..1.
        celsius: temperature.
    """

    used_bytes: int | None = None
    watts: float | None = None
    busy_share: float | None = None
    celsius: float | None = None
