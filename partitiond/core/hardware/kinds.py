"""Defines what is known of a kind of device, and of one device of a host."""

import dataclasses
import enum
from typing import Final

from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.units import MIB, ZERO_BYTES, Bytes


class DeviceKind(enum.StrEnum):
    """NVIDIA GPU, or the host's CPU."""

    GPU = "gpu"
    CPU = "cpu"


class SharingMode(enum.StrEnum):
    """How replicas share one device; one mode per device at a time."""

    WHOLE = "whole"
    MEMORY = "memory"
    """Memory shares; compute is time-sliced by the driver."""
    MPS = "mps"
    MIG = "mig"
    CORES = "cores"


@dataclasses.dataclass(frozen=True, slots=True)
class MigProfile:
    """One size of GPU instance that a kind of GPU offers.

    Slices decide what fits beside it; SMs and memory decide speed.

    Attributes:
        name: as the driver names it, "2g.20gb".
        compute_slices: of 7.
        memory_slices: of 8; also its share of the memory bandwidth.
        sm_count: its streaming multiprocessors.
        memory_bytes: its memory as drivers print it; read the instance's own once it exists.
        max_instances: how many one GPU holds of it alone.
        starts: first memory slices it may have, as the driver lists them; empty for the rules of
            8-slice GPUs (`core.mig.geometry.starts_of`).
    """

    name: str
    compute_slices: int
    memory_slices: int
    sm_count: int
    memory_bytes: Bytes
    max_instances: int
    starts: tuple[int, ...] = ()


MIG_MEMORY_SLICES = 8
"""Memory slices of every GPU in the catalog that offers MIG."""

MIG_COMPUTE_SLICES = 7
"""Compute slices of the same GPUs."""

IDLE_SHARE = 0.15
"""Draw without load as a share of the power limit, for devices where the draw was not measured:
data-centre GPUs report 50 to 70 W of 350 to 700 W with a context loaded. Assumed from that."""


@dataclasses.dataclass(frozen=True, slots=True)
class HardwareSpec:
    """A kind of device, for planning without one at hand.

    Attributes:
        key: catalog name, as "a100-80gb".
        memory_bytes: device memory in total as the driver reports it.
        sm_count: streaming multiprocessors (0 on a CPU).
        bandwidth_bytes_per_s: memory bandwidth.
        flops_16bit: dense 16-bit floating-point operations per second.
        modes: sharing modes it allows.
        source: where the numbers come from.
        nominal_bytes: memory as it is sold, of which the paper's memory model takes a share; 0 if
            it is `memory_bytes`.
        flops_8bit: dense fp8 operations per second; 0 if it has no fp8.
        flops_32bit: 32-bit operations per second without tensor cores; 0 if unknown.
        native_dtype: the type that it computes in hardware: bfloat16 if it has that.
        tdp_watts: thermal design power, an upper bound of what it draws; None if not public.
        aliases: other names under which it is found.
        mig_profiles: sizes of GPU instance it offers.
        cores: of a CPU; 0 for a GPU.
    """

    key: str
    kind: DeviceKind
    memory_bytes: Bytes
    sm_count: int
    bandwidth_bytes_per_s: float
    flops_16bit: float
    modes: tuple[SharingMode, ...]
    source: str
    nominal_bytes: Bytes = ZERO_BYTES
    flops_8bit: float = 0.0
    flops_32bit: float = 0.0
    native_dtype: str = "bfloat16"
    tdp_watts: float | None = None
    aliases: tuple[str, ...] = ()
    mig_profiles: tuple[MigProfile, ...] = ()
    cores: int = 0

    def device(self, device_id: str, host: str, cores: tuple[int, ...]) -> "Device":
        """Return a device of this kind as the catalog describes it, all of it free."""
        return Device(
            id=device_id,
            kind=self.kind,
            hardware=self.key,
            name=self.key,
            host=host,
            memory_bytes=self.memory_bytes,
            free_bytes=self.memory_bytes,
            cores=cores,
            sm_count=self.sm_count,
            modes=self.modes,
        )

    @property
    def sold_bytes(self) -> Bytes:
        """Memory as it is sold."""
        return self.nominal_bytes or self.memory_bytes


@dataclasses.dataclass(frozen=True, slots=True)
class MigInstance:
    """A GPU instance that exists on a GPU now.

    Attributes:
        mig_profile: as the driver names it, "2g.20gb".
        slice_start, slice_count: memory slices it covers.
        memory_bytes: its own memory, as the driver reports it.
        uuid: of its MIG device ("MIG-..."), what CUDA is told; empty without a compute instance.
        busy: a process that is not ours runs in it.
    """

    mig_profile: str
    slice_start: int
    slice_count: int
    memory_bytes: Bytes
    uuid: str = ""
    busy: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ForeignProcess:
    """A process on a GPU that is not of this daemon's engines.

    Attributes:
        used_bytes: device memory it holds; 0 where the driver does not say.
        name: its command's name; empty where it cannot be read.
    """

    pid: int
    used_bytes: Bytes
    name: str = ""


def short_device(device_id: str) -> str:
    """Return a device's id for people: of a GPU's UUID the first eight digits, which tell GPUs
    apart.
    """
    return device_id[:12] if device_id.startswith("GPU-") else device_id


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """One device of one host, as observed or as described in a fleet file.

    Attributes:
        id: stable and unique over all hosts: GPU UUID, "cpu" ("cpu-HOST" on a host that joined
            another), or the fleet file's "a100-80gb-3".
        kind: gpu or cpu.
        hardware: catalog key ("a100-80gb"), or for a CPU a key made of its model and cores;
            profiles are valid for one hardware key.
        name: what the vendor calls it.
        host: host name.
        memory_bytes: total memory.
        free_bytes: memory free of foreign processes when observed.
        cores: host cores usable for engines of this device, by index, sorted.
        sm_count: 0 on a CPU.
        modes: sharing modes allowed here.
        reserved_bytes: memory the driver or the operating system keeps.
        price_per_hour: in the currency of the user's file; 1.0 where none is given.
        driver: driver version, or kernel version on a CPU.
        rack: what is lost together beyond a host; empty where not known (the host counts).
        cordoned: nothing may be placed here; what runs is to move away.
        max_replicas: clients it allows at once; None for the sharing mode's own limit.
        occupied_sm_percent: share of the SMs that others hold under MPS.
        occupied_slices: memory slices, 0..7, under GPU instances that are not ours.
        idle_watts: draw without load; None for what is known of the hardware.
        max_watts: its power limit; None for what is known of the hardware.
        core_nodes: the same cores by NUMA node; empty where the nodes are not known.
        cordon_reason: why it is cordoned: an operator's words, or what is wrong with it.
        foreign: processes on it that are not ours; what they hold is not in `free_bytes`.
        mig_instances: GPU instances that exist, by first slice.
        mig_fixed: its geometry may not be changed, so that only instances that exist can be used.
        health: what its driver says of it; a failed or silent one is cordoned.
        health_reason: why it is not fine, and what to do; empty where it is.
        mig_profiles: sizes of GPU instance as its driver lists them; empty for the catalog's.
        native_dtype: type that a CPU's cores compute in hardware; empty for that of the hardware.
        mps_group: the isolation group whose MPS daemon stays, for engines asleep or of a profile
            job: no other group may share it under MPS; None for any.
    """

    id: str
    kind: DeviceKind
    hardware: str
    name: str
    host: str
    memory_bytes: Bytes
    free_bytes: Bytes
    cores: tuple[int, ...]
    sm_count: int = 0
    modes: tuple[SharingMode, ...] = (SharingMode.WHOLE,)
    reserved_bytes: Bytes = ZERO_BYTES
    price_per_hour: float = 1.0
    driver: str = ""
    rack: str = ""
    cordoned: bool = False
    max_replicas: int | None = None
    occupied_sm_percent: int = 0
    occupied_slices: tuple[int, ...] = ()
    idle_watts: float | None = None
    max_watts: float | None = None
    core_nodes: tuple[tuple[int, ...], ...] = ()
    cordon_reason: str = ""
    foreign: tuple[ForeignProcess, ...] = ()
    mig_instances: tuple[MigInstance, ...] = ()
    mig_fixed: bool = False
    health: DeviceHealth = DeviceHealth.FINE
    health_reason: str = ""
    mig_profiles: tuple[MigProfile, ...] = ()
    mps_group: str | None = None
    native_dtype: str = ""

    @property
    def short_id(self) -> str:
        """Its id for people."""
        return short_device(self.id)


_HANGS: Final = ": a call of its driver does not end; `dmesg` may say why."


def silent_device(device: Device, why: str, advice: str = _HANGS) -> Device:
    """Return the device as last seen, marked as silent: it answers no more, and nothing is placed
    there.

    Args:
        why: "silent for 30 s".
        advice: ends the sentence; what to do.
    """
    words = f"{why}{advice}"
    return dataclasses.replace(
        device,
        cordoned=True,
        cordon_reason=words,
        health=DeviceHealth.SILENT,
        health_reason=words,
        foreign=(),
    )


def kept_by_silent(device: Device, running: int) -> Device:
    """Return a device for the planner: closed if it is silent."""
    return closed_device(device, running) if device.health is DeviceHealth.SILENT else device


def closed_device(device: Device, running: int) -> Device:
    """Return a device that keeps the replicas that run there, so many, and gets no other."""
    if not running:
        return dataclasses.replace(device, cordoned=True)
    most = min(running, device.max_replicas or running)
    return dataclasses.replace(device, cordoned=False, max_replicas=most)


def lost_device(device: Device, why: str) -> Device:
    """Return the device as last seen, marked as one whose host is lost: no plan counts with it."""
    return dataclasses.replace(silent_device(device, why, advice=""), health=DeviceHealth.FAILED)


def headroom_bytes(total_bytes: int) -> int:
    """Return the memory left free on purpose on a device: max(512 MiB, 3 %)."""
    return max(512 * MIB, -(-total_bytes * 3 // 100))
