"""Estimates profiles, and says for which partition sizes that is worth it."""

from collections.abc import Iterable

from partitiond import __version__
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.hardware.partition import SM_PERCENTS, PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSpec
from partitiond.core.performance.estimate import estimate_profile, hardware_of
from partitiond.core.performance.transfer_fit import subject_of
from partitiond.core.profile.record import Profile


def kinds_of(devices: Iterable[Device]) -> list[Device]:
    """Return one device of each kind: those are alike whose estimates are."""
    return list({(d.hardware, d.memory_bytes, d.modes): d for d in devices}.values())


def sizes(device: Device) -> tuple[PartitionSize, ...]:
    """Partition sizes worth an estimate on this device."""
    if device.kind is DeviceKind.CPU:
        count = len(device.cores)
        powers = [2**n for n in range(count.bit_length()) if 2**n < count]
        return tuple(PartitionSize(SharingMode.CORES, n) for n in (*powers, count))
    found: list[PartitionSize] = []
    if SharingMode.MPS in device.modes:
        found += [PartitionSize(SharingMode.MPS, 1, percent) for percent in SM_PERCENTS]
    if {SharingMode.WHOLE, SharingMode.MEMORY} & set(device.modes):
        found.append(PartitionSize(SharingMode.MEMORY, 1, 100))
    if SharingMode.MIG in device.modes:
        offered = hardware_of(device).mig_profiles
        # Media engines make an instance no faster at text, and only one instance can have them.
        plain = [p.name for p in offered if not p.name.endswith("+me")]
        found += [PartitionSize(SharingMode.MIG, 1, 100, name) for name in plain]
    return tuple(found)


def estimate(
    spec: ModelSpec,
    architecture: Architecture,
    device: Device,
    size: PartitionSize,
    now: str,
    *,
    variant: str = "",
) -> Profile:
    """Return the estimated profile of one form of a model on one kind of device and partition size.

    Args:
        spec: of that form.
        architecture: of that form.
        device: a device of the kind.
        size: the partition size.
        now: ISO 8601 UTC.
        variant: name of the form; empty for the model itself.
    """
    name = f"{spec.name}-{variant}" if variant else spec.name
    return estimate_profile(
        subject_of(spec, architecture, hardware_of(device), size),
        spec.max_model_len,
        profile_id=f"estimate-{name}-{device.hardware}-{size.key}",
        created_at=now,
        device=device,
        weights=spec.weights.value,
        partitiond_version=__version__,
        variant=variant,
    )
