"""Chooses what a model is profiled on, and which profiles speak for the model. Pure."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from partitiond.controller.profiles.partition import slices_of
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.planner.model.candidates import measured_with, of_wanted_dtype

_RANK: Final = {
    ProfileKind.MEASURED: 0,
    ProfileKind.TRANSFERRED: 1,
    ProfileKind.ESTIMATED: 2,
}


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileTarget:
    """A device to measure on, and the size of the partition there."""

    device: Device
    size: PartitionSize


def profile_targets(
    devices: Sequence[Device], cpu_partition_cores: Sequence[int]
) -> tuple[ProfileTarget, ...]:
    """Return what every model is profiled on: each kind of GPU once, or the CPU without GPUs.

    On a GPU the engine is alone on the device while it is measured. Profiles of MPS shares and MIG
    slices are derived from that for each plan (`controller.plans.derived`); measuring such a
    size by hand, too, makes plans surer. If all GPUs of a kind are in MIG mode, none can be
    measured whole: the largest MIG profile that they have stands in. On the CPU device the sizes
    are the given numbers of cores, by default one core (how well it replicates) and all cores (how
    well it scales).
    """
    gpus = [device for device in devices if device.kind is DeviceKind.GPU]
    if gpus:
        kinds = dict.fromkeys(device.hardware for device in gpus)
        alike = ([d for d in gpus if d.hardware == kind] for kind in kinds)
        return tuple(target for group in alike if (target := _gpu_target(group)) is not None)
    return tuple(
        ProfileTarget(device, PartitionSize(SharingMode.CORES, cores))
        for device in devices
        for cores in _core_counts(device, cpu_partition_cores)
    )


def _gpu_target(alike: Sequence[Device]) -> ProfileTarget | None:
    """Return, for GPUs of one kind, the first that can be used whole, else its largest slice."""
    whole = next((d for d in alike if SharingMode.WHOLE in d.modes), None)
    if whole is not None:
        return ProfileTarget(whole, PartitionSize(SharingMode.WHOLE, 1, 100))
    sliced = [(d, name) for d in alike if (name := _largest_slice(d))]
    if not sliced:
        return None
    device, name = sliced[0]
    return ProfileTarget(device, PartitionSize(SharingMode.MIG, 1, 100, name))


def _largest_slice(device: Device) -> str:
    """Return the MIG profile with most memory that the device can have; empty for none."""
    offered = [name for name in slices_of(device) if not name.endswith("+me")]
    return offered[-1] if offered else ""


def _core_counts(device: Device, wanted: Sequence[int]) -> list[int]:
    available = len(device.cores)
    return sorted({min(count, available) for count in (wanted or (1, available)) if available})


def source_of(spec: ModelSpec) -> str:
    """Return what ties a profile to its model's source: profiles outlive their model's
    registration, and a name may come back with another source.
    """
    return f"{spec.source.kind.value} {spec.source.ref}"


def speaks_for(profile: Profile, spec: ModelSpec) -> bool:
    """Whether a profile was made of this model as it is registered now.

    A profile of a variant is compared with that variant. The caller has to check whether the model
    lists the variant, and whether `spec` is the variant's own form already.
    """
    if any(variant.name == profile.variant for variant in spec.variants):
        spec = spec.as_variant(profile.variant)
    provenance = profile.provenance
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
        and provenance.source in ("", source_of(spec))
    )


def best_profiles(spec: ModelSpec, profiles: Iterable[Profile]) -> tuple[Profile, ...]:
    """Return one profile per hardware, size and form: measured, else transferred, else the newest.

    Forms are the model itself and the variants it lists. If any form was measured on some hardware,
    estimates for that hardware are left out: a plan should not prefer a guess to the truth because
    the guess is the kinder one.

    Args:
        spec: the model as it is registered.
        profiles: of any model, newest first.
    """
    listed = {"", *(variant.name for variant in spec.variants)}
    best: dict[tuple[str, PartitionSize, str], Profile] = {}
    for profile in of_wanted_dtype(spec, (p for p in profiles if p.model == spec.name)):
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


class BestProfiles:
    """Memoises `best_profiles` of each model until the model or its profiles change.

    Args:
        profiles: returns a model's profiles, newest first; the same object while they are the same.
    """

    def __init__(self, profiles: Callable[[str], Sequence[Profile]]) -> None:
        self._profiles = profiles
        self._known: dict[str, tuple[ModelSpec, Sequence[Profile], tuple[Profile, ...]]] = {}

    def of(self, spec: ModelSpec) -> tuple[Profile, ...]:
        """Return the best profiles of a model with this specification."""
        kept = self._profiles(spec.name)
        known = self._known.get(spec.name)
        if known is None or known[1] is not kept or known[0] != spec:
            known = self._known[spec.name] = spec, kept, best_profiles(spec, kept)
        return known[2]


def best_kind(profiles: Collection[Profile]) -> ProfileKind | None:
    """The best kind among them."""
    return min((profile.kind for profile in profiles), key=_RANK.__getitem__, default=None)


def unmeasured(
    spec: ModelSpec, targets: Iterable[ProfileTarget], profiles: Iterable[Profile]
) -> tuple[ProfileTarget, ...]:
    """Targets on which this model, as it is registered now, was not measured yet."""
    measured = {
        (profile.hardware, profile.size)
        for profile in of_wanted_dtype(spec, profiles)
        if profile.kind is ProfileKind.MEASURED and speaks_for(profile, spec)
    }
    return tuple(t for t in targets if (t.device.hardware, t.size) not in measured)


def without_estimate(
    spec: ModelSpec, targets: Iterable[ProfileTarget], profiles: Iterable[Profile]
) -> tuple[ProfileTarget, ...]:
    """Targets on which some form of the model, as it is registered now, has no profile at all.

    The chain begins with an estimate of each form on each target, so it was not begun there: the
    model was stored, as new or as changed, or the kind of device came, while no daemon ran.
    """
    known = {(p.hardware, p.size, p.variant) for p in profiles if speaks_for(p, spec)}
    forms = ("", *(variant.name for variant in spec.variants))
    return tuple(
        target
        for target in targets
        if not known.issuperset((target.device.hardware, target.size, form) for form in forms)
    )


def first_looks(targets: Sequence[ProfileTarget]) -> tuple[ProfileTarget, ...]:
    """Return the targets of first looks: each kind of GPU, or the fewest cores of a CPU."""
    smallest: dict[str, ProfileTarget] = {}
    for target in targets:  # of one CPU the fewest cores come first
        smallest.setdefault(target.device.hardware, target)
    return tuple(smallest.values())


def in_a_hurry(profile: Profile) -> bool:
    """Whether a profile is of a first look, which confirms neither memory nor capacity."""
    measured = profile.kind is ProfileKind.MEASURED
    return measured and profile.frontier_memory is None and not profile.capacity_trials
