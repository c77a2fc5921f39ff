"""What a model is profiled on, and which profiles speak for it. Pure."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from partitiond.core.hardware import Device, DeviceKind, SharingMode
from partitiond.core.partition import PartitionSize
from partitiond.core.profile import Profile, ProfileKind
from partitiond.core.spec import ModelSpec
from partitiond.planner.candidates import measured_with

_RANK: Final = {
    ProfileKind.MEASURED: 0,
    ProfileKind.TRANSFERRED: 1,
    ProfileKind.ESTIMATED: 2,
}
_SOURCE_NOTE: Final = "source: "
"""Profiles outlive their model's registration; a name may come back with another source."""


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A device to measure on, and the size of the partition there."""

    device: Device
    size: PartitionSize


def profile_targets(
    devices: Sequence[Device], cpu_partition_cores: Sequence[int]
) -> tuple[Target, ...]:
    """What every model is profiled on: each kind of GPU once, or the CPU where there is no GPU.

    On a GPU the engine is alone on the device while it is measured, and may share its memory
    later. On the CPU device the sizes are the given numbers of cores, by default one core (how
    well it replicates) and all cores (how well it scales).
    """
    by_hardware: dict[str, Device] = {}
    for device in devices:
        if device.kind is DeviceKind.GPU:
            by_hardware.setdefault(device.hardware, device)
    if by_hardware:
        return tuple(
            Target(device, PartitionSize(SharingMode.WHOLE, 1, 100))
            for device in by_hardware.values()
        )
    return tuple(
        Target(device, PartitionSize(SharingMode.CORES, cores))
        for device in devices
        for cores in _core_counts(device, cpu_partition_cores)
    )


def _core_counts(device: Device, wanted: Sequence[int]) -> list[int]:
    available = len(device.cores)
    return sorted({min(count, available) for count in (wanted or (1, available)) if available})


def source_note(spec: ModelSpec) -> str:
    """The note that ties a profile to where the model came from."""
    return f"{_SOURCE_NOTE}{spec.source.kind.value} {spec.source.ref}"


def speaks_for(profile: Profile, spec: ModelSpec) -> bool:
    """Whether a profile was made of this model as it is registered now.

    A profile of a variant is compared with that variant; whether the model lists it, and whether
    `spec` is the variant's own form already, is the caller's business.
    """
    if any(variant.name == profile.variant for variant in spec.variants):
        spec = spec.as_variant(profile.variant)
    provenance = profile.provenance
    sources = [note for note in provenance.notes if note.startswith(_SOURCE_NOTE)]
    simulated = provenance.engine == "simulated"
    return (
        profile.model == spec.name
        and profile.workload == spec.workload
        and spec.engine.dtype in (profile.dtype, "auto")
        and measured_with(profile, spec.engine)
        and not profile.structured_output
        and provenance.weights == spec.weights.value
        and (
            profile.kind is ProfileKind.ESTIMATED or simulated == (spec.engine_kind == "simulated")
        )
        and (not sources or source_note(spec) in sources)
    )


def best_profiles(spec: ModelSpec, profiles: Iterable[Profile]) -> tuple[Profile, ...]:
    """One profile per hardware, size and form: measured first, then transferred, then the newest.

    Forms are the model itself and the variants it lists. Where anything was measured on some
    hardware, estimates for that hardware are left out: a plan should not prefer a guess to the
    truth because the guess is the kinder one.

    Args:
        spec: the model as it is registered.
        profiles: of any model, newest first.
    """
    listed = {"", *(variant.name for variant in spec.variants)}
    best: dict[tuple[str, PartitionSize, str], Profile] = {}
    for profile in profiles:
        if profile.variant not in listed or not speaks_for(profile, spec):
            continue
        key = profile.hardware, profile.size, profile.variant
        if key not in best or _RANK[profile.kind] < _RANK[best[key].kind]:
            best[key] = profile
    real = {p.hardware for p in best.values() if p.kind is not ProfileKind.ESTIMATED}
    return tuple(
        profile
        for profile in best.values()
        if profile.kind is not ProfileKind.ESTIMATED or profile.hardware not in real
    )


def best_kind(profiles: Collection[Profile]) -> ProfileKind | None:
    """The best kind among them."""
    return min((profile.kind for profile in profiles), key=_RANK.__getitem__, default=None)


def unmeasured(
    spec: ModelSpec, targets: Iterable[Target], profiles: Iterable[Profile]
) -> tuple[Target, ...]:
    """Targets on which this model, as it is registered now, was not measured yet."""
    measured = {
        (profile.hardware, profile.size)
        for profile in profiles
        if profile.kind is ProfileKind.MEASURED and speaks_for(profile, spec)
    }
    return tuple(t for t in targets if (t.device.hardware, t.size) not in measured)
