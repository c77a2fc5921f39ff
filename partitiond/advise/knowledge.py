"""Finds profiles of a model for the observed lengths, on the existing kinds of devices.

A measured profile of exactly these lengths is used as it is. A measured profile of other lengths is
transferred by `core.performance.transfer` and counts as transferred. Partitions without a
measurement get an estimate. The planner, and the displayed advice, keep the margins of each kind
apart.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

from partitiond import __version__
from partitiond.advise.identify import Known
from partitiond.core.errors import PartitiondError, ProfileError, SpecError
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.lookup import hardware_for_key
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.performance.transfer import transfer_profile
from partitiond.core.performance.transfer_fit import Source, Subject, source_of
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.fleet.estimates import estimate, kinds_of, sizes


@dataclasses.dataclass(frozen=True, slots=True)
class Knowledge:
    """Profiles for one model, and notes on profiles that could not be used.

    Attributes:
        profiles: profiles under the spec's name and workload.
        notes: measured profiles that were not usable, and why.
    """

    profiles: tuple[Profile, ...]
    notes: tuple[str, ...]


def profiles_for(
    known: Known, devices: Sequence[Device], measured: Sequence[Profile], now: str
) -> Knowledge:
    """Return profiles of a model for its observed lengths, on each kind of device.

    Args:
        known: the model.
        devices: existing devices.
        measured: available profiles of any model; those of this model on these devices are used.
        now: ISO 8601, UTC.
    """
    estimated = [
        estimate(known.spec, known.architecture, device, size, now)
        for device in kinds_of(devices)
        for size in sizes(device)
    ]
    found, notes = _measured(known, {d.hardware for d in devices}, measured, now)
    return Knowledge((*found, *estimated), tuple(notes))


def _measured(
    known: Known, hardware: set[str], measured: Sequence[Profile], now: str
) -> tuple[list[Profile], list[str]]:
    groups: dict[tuple[str, PartitionSize], list[Profile]] = collections.defaultdict(list)
    for profile in measured:
        mine = profile.model in (known.spec.name, *known.names) and not profile.variant
        if mine and profile.hardware in hardware and not profile.structured_output:
            groups[profile.hardware, profile.size].append(profile)
    found, notes = [], []
    for profiles in groups.values():
        same = [p for p in profiles if p.workload == known.spec.workload]
        if same:
            found += [dataclasses.replace(p, model=known.spec.name) for p in same]
            continue
        try:
            found += list(_carried(known, profiles, now))
        except PartitiondError as error:
            ids = ", ".join(p.id for p in profiles)
            notes.append(f"{ids} does not help: {error.message}")
    return found, notes


def _carried(known: Known, profiles: Sequence[Profile], now: str) -> Iterator[Profile]:
    """Yield measured profiles of a partition, transferred to observed lengths. Raises SpecError."""
    usable = [p for p in profiles if p.kind is ProfileKind.MEASURED]
    if not usable:
        raise ProfileError(
            "it was not measured itself, and says nothing about other lengths.",
            hint="Give measured profiles.",
        )
    first = usable[0]
    hardware = hardware_for_key(first.hardware)
    sources: list[Source] = [
        source_of(p, known.architecture, hardware)
        for p in usable
        if (p.dtype, p.kv_cache_dtype) == (first.dtype, first.kv_cache_dtype)
    ]
    like = sources[0].subject
    if like.quantization != known.spec.engine.quantization:
        raise SpecError("its weights are loaded in another way.", hint="Give other profiles.")
    subject: Subject = dataclasses.replace(
        like, model=known.spec.name, workload=known.spec.workload
    )
    sources = [
        dataclasses.replace(s, subject=dataclasses.replace(s.subject, model=known.spec.name))
        for s in sources
    ]
    yield transfer_profile(
        sources,
        subject,
        known.spec.max_model_len,
        profile_id=_id(first, known),
        created_at=now,
        partitiond_version=__version__,
    )


def _id(profile: Profile, known: Known) -> str:
    lengths = hashlib.sha256(known.spec.workload.key.encode()).hexdigest()[:8]
    return f"advise-{known.spec.name}-{profile.hardware}-{profile.size.key}-{lengths}"
