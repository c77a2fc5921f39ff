"""Derives profiles of MPS shares and MIG slices from what was measured on the whole GPU.

On a GPU the daemon by itself profiles only the whole device. A plan under MPS or with MIG slices
is still possible: the roofline's terms (`core.performance.transfer`) carry the measured step time
over to each smaller size. Such a profile is marked as transferred, and gets the wider margins of
that kind. If only an estimate of the whole GPU exists, the sizes are estimated, too. A size that
was measured itself is never derived.

Derived profiles are made again for each plan and never stored. Their name is that of the profile
they come from and the size: "opt-125m-a100-80gb-whole-...@mps-30".
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence

from partitiond import __version__
from partitiond.controller.plans.situation import Situation
from partitiond.controller.profiles.partition import slices_of
from partitiond.core.errors import PartitiondError, SpecError
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.hardware.partition import SM_PERCENTS, PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.recognised import started
from partitiond.core.model.spec import ModelSpec
from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.estimate import hardware_of
from partitiond.core.performance.transfer import transfer_profile
from partitiond.core.performance.transfer_fit import source_of, usable_points
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.fleet.estimates import estimate

ArchitectureOf = Callable[[ModelSpec], Awaitable[Architecture]]


@dataclasses.dataclass(frozen=True, slots=True)
class Derived:
    """Profiles that were derived for one model, and notes on sizes for which none could be.

    Attributes:
        sources: pairs of a derived profile's id and the id of the profile that it rests on.
        notes: what to profile, one sentence each.
    """

    profiles: tuple[Profile, ...] = ()
    sources: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def derivable_sizes(devices: Sequence[Device]) -> tuple[PartitionSize, ...]:
    """Return the sizes beside the whole that the modes of devices of one kind allow in plans."""
    modes = {mode for device in devices for mode in device.modes}
    found: list[PartitionSize] = []
    if SharingMode.MPS in modes:
        found += [PartitionSize(SharingMode.MPS, 1, percent) for percent in SM_PERCENTS]
    able = [device for device in devices if SharingMode.MIG in device.modes]
    names = dict.fromkeys(name for device in able for name in slices_of(device))
    # A "+me" instance has the media engines: it is no faster at text, and a GPU has only one.
    plain = [name for name in names if not name.endswith("+me")]
    return (*found, *(PartitionSize(SharingMode.MIG, 1, 100, name) for name in plain))


def derive(
    spec: ModelSpec,
    profiles: Sequence[Profile],
    devices: Sequence[Device],
    architectures: Mapping[str, Architecture],
    created_at: str,
) -> Derived:
    """Derive profiles for the sizes of the GPUs that were not measured.

    Args:
        spec: the model as it is registered.
        profiles: profiles of the model, the best of each hardware, size and form.
        devices: the devices that there are now.
        architectures: by variant; the model's own has the empty name.
        created_at: ISO 8601, UTC.
    """
    kinds = by_key((d.hardware, d) for d in devices if d.kind is DeviceKind.GPU)
    found: list[Profile] = []
    sources: list[tuple[str, str]] = []
    notes: list[str] = []
    for alike in kinds.values():
        here = [p for p in profiles if p.hardware == alike[0].hardware]
        for variant, architecture in architectures.items():
            form = _Form(spec, variant, architecture, alike[0], created_at)
            mine = [p for p in here if p.variant == variant]
            for size in derivable_sizes(alike):
                try:
                    made = _of_size(form, mine, size)
                except SpecError as error:
                    notes.append(_note(form, size, error))
                    continue
                if made is not None:
                    profile, source = made
                    found.append(profile)
                    sources.append((profile.id, source))
    return Derived(tuple(found), tuple(sources), tuple(notes))


@dataclasses.dataclass(frozen=True, slots=True)
class _Form:
    """One form of a model on one kind of GPU."""

    spec: ModelSpec
    variant: str
    architecture: Architecture
    device: Device
    created_at: str


def _of_size(
    form: _Form, mine: Sequence[Profile], size: PartitionSize
) -> tuple[Profile, str] | None:
    """Return a profile of this size and its source's id; None if measured, or without a source.

    Raises:
        SpecError: the roofline does not know such a partition of this GPU.
    """
    if any(profile.size == size for profile in mine):
        return None
    measured = [p for p in mine if p.kind is ProfileKind.MEASURED and usable_points(p)]
    if measured:
        modes = (SharingMode.WHOLE, SharingMode.MEMORY)
        first = next((p for p in measured if p.size.mode in modes), measured[0])
        return _transferred(form, measured, first, size), first.id
    guess = next((p for p in mine if p.kind is ProfileKind.ESTIMATED), None)
    if guess is None:
        return None
    made = estimate(
        started(form.spec.as_variant(form.variant), form.architecture),
        form.architecture,
        form.device,
        size,
        form.created_at,
        variant=form.variant,
    )
    return dataclasses.replace(made, id=f"{guess.id}@{size.key}"), guess.id


def _transferred(
    form: _Form, measured: Sequence[Profile], first: Profile, size: PartitionSize
) -> Profile:
    hardware = hardware_of(form.device)
    sources = [source_of(profile, form.architecture, hardware) for profile in measured]
    subject = next(s.subject for s in sources if s.profile is first)
    made = transfer_profile(
        sources,
        dataclasses.replace(subject, size=size),
        started(form.spec.as_variant(form.variant), form.architecture).max_model_len,
        profile_id=f"{first.id}@{size.key}",
        created_at=form.created_at,
        partitiond_version=__version__,
    )
    # Interference between replicas in that mode, if it was measured, was measured on the same GPU.
    shared = tuple(s for p in measured for s in p.sharing if s.mode == size.mode.value)
    return dataclasses.replace(made, variant=form.variant, sharing=shared[:1], slo=first.slo)


def _note(form: _Form, size: PartitionSize, error: SpecError) -> str:
    variant = f" --variant {form.variant}" if form.variant else ""
    share = f"--mig {size.mig_profile}" if size.mig_profile else f"--mps {size.sm_percent}"
    return (
        f"{form.spec.name} is not planned as {size.key} on {form.device.hardware}: "
        f"{error.message.rstrip('.')}; to plan it so, measure it: partitiond profile "
        f"{form.spec.name}{variant} --device {form.device.id} {share}"
    )


class Derivations:
    """Adds derived profiles to what a plan is made from, and remembers them for the next plan:
    those of twice as many models as the largest plan had (a model's take 60 ms of CPU).

    Args:
        architecture_of: returns the architecture of a model; if None, nothing is derived.
    """

    def __init__(self, architecture_of: ArchitectureOf | None) -> None:
        self._architecture_of = architecture_of
        self._remembered: dict[object, Derived] = {}  # the one used last is the last
        self._most = 0

    async def widened(self, situation: Situation, now: str) -> tuple[Situation, tuple[str, ...]]:
        """Return the situation with derived profiles, and notes on what to profile for the rest.

        A derived profile is as stale as the one it rests on.

        Args:
            now: ISO 8601, UTC.
        """
        gpus = tuple(d for d in situation.devices if d.kind is DeviceKind.GPU)
        if self._architecture_of is None or not gpus:
            return situation, ()
        self._most = max(self._most, 2 * len(situation.records))
        best = dict(situation.profiles)
        stale = dict(situation.stale)
        notes: list[str] = []
        kinds = frozenset((gpu.hardware, gpu.modes, slices_of(gpu)) for gpu in gpus)
        hardware = {gpu.hardware for gpu in gpus}
        for record in situation.records:
            spec = record.spec
            own = best.get(spec.name, ())
            if not any(p.hardware in hardware for p in own):
                continue
            found = await self._derived(spec, own, gpus, kinds, now)
            best[spec.name] = (*own, *found.profiles)
            stale |= {new: stale[old] for new, old in found.sources if old in stale}
            notes += found.notes
        wider = dataclasses.replace(
            situation,
            profiles=tuple(
                (r.spec.name, tuple(best.get(r.spec.name, ()))) for r in situation.records
            ),
            stale=tuple(stale.items()),
        )
        return wider, tuple(notes)

    async def _derived(
        self,
        spec: ModelSpec,
        own: Sequence[Profile],
        gpus: Sequence[Device],
        kinds: frozenset[object],
        now: str,
    ) -> Derived:
        key = (spec, tuple((p.id, p.sharing) for p in own), kinds)
        found = self._remembered.pop(key, None)
        if found is None:
            architectures = await self._architectures(spec, own)
            found = await asyncio.to_thread(derive, spec, own, gpus, architectures, now)
        self._remembered[key] = found
        while len(self._remembered) > self._most:
            del self._remembered[next(iter(self._remembered))]
        return found

    async def _architectures(
        self, spec: ModelSpec, own: Sequence[Profile]
    ) -> dict[str, Architecture]:
        """Return the architectures of forms that have a profile, and whose config can be read."""
        assert self._architecture_of is not None
        found: dict[str, Architecture] = {}
        for variant in dict.fromkeys(profile.variant for profile in own):
            try:
                found[variant] = await self._architecture_of(spec.as_variant(variant))
            except PartitiondError:
                continue  # plans use the profiles of this form as they are
        return found
