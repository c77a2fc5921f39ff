"""Plans the steps from the GPU instances that exist to those that are wanted.

The driver's rules: an instance needs free memory slices at one of its starts. A GPU instance can be
destroyed once it has no compute instance, a compute instance once no process runs in it. The rules
of this module: MIG is turned on and off by people, instances that are not ours are neither
destroyed nor completed, an instance in use is never destroyed, and an instance that fits stays. So
the steps destroy first and create then, and each GPU instance gets its compute instance at once: a
crash leaves at most one incomplete instance.

A place describes an instance completely (profile and first slice), so no search is needed: only the
instances that overlap a place to be created are in its way.
"""

import collections
import dataclasses
from collections.abc import Collection, Sequence
from typing import Final, Literal

from partitiond.core.hardware.kinds import MigProfile
from partitiond.core.mig.geometry import Place, covered_slices, starts_of
from partitiond.core.units import ZERO_BYTES, Bytes

MigChanges = Literal["never", "instances"]
"""Which changes are allowed; the values of the setting gpu.mig_changes."""


@dataclasses.dataclass(frozen=True, slots=True)
class PresentInstance:
    """A GPU instance that exists.

    Attributes:
        place: profile, first memory slice, slices covered.
        compute_instances: how many it holds; CUDA does not see an instance without any.
        whole: it holds one compute instance with all of its compute slices.
        busy: a process runs in it.
        gi_id: the driver's number of it; -1 if it is not known.
        uuid: of its MIG device; empty unless it is whole.
        memory_bytes: its own memory as the driver reports it; 0 if the driver does not.
        pids: processes in it.
    """

    place: Place
    compute_instances: int = 1
    whole: bool = True
    busy: bool = False
    gi_id: int = -1
    uuid: str = ""
    memory_bytes: Bytes = ZERO_BYTES
    pids: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class MigLayout:
    """The state of MIG on one GPU.

    Attributes:
        capable: the GPU has MIG.
        enabled: the mode in force.
        pending: the mode after the GPU's next reset.
        profiles: sizes of GPU instance on offer, with their starts.
        instances: by first slice.
        placed: the starts of instances come from the driver; else they are made up such that they
            fit (the driver does not tell unprivileged users where instances are).
    """

    capable: bool
    enabled: bool
    pending: bool
    profiles: tuple[MigProfile, ...] = ()
    instances: tuple[PresentInstance, ...] = ()
    placed: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class DestroyComputeInstance:
    """Destroy all compute instances of the GPU instance at this place."""

    place: Place


@dataclasses.dataclass(frozen=True, slots=True)
class DestroyGpuInstance:
    """Destroy the GPU instance at this place."""

    place: Place


@dataclasses.dataclass(frozen=True, slots=True)
class CreateGpuInstance:
    """Create a GPU instance at this place."""

    place: Place


@dataclasses.dataclass(frozen=True, slots=True)
class CreateComputeInstance:
    """Create the compute instance that covers the GPU instance at this place."""

    place: Place


Step = DestroyComputeInstance | DestroyGpuInstance | CreateGpuInstance | CreateComputeInstance


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """Why the steps cannot be taken, and what to do about it."""

    reason: str
    hint: str


@dataclasses.dataclass(frozen=True, slots=True)
class MigPermissions:
    """The changes that are permitted to reach a wish.

    Attributes:
        changes: the setting gpu.mig_changes.
        ours: instances that may be destroyed, or completed if they are incomplete: this daemon
            made them, and none of its replicas is in them.
    """

    changes: MigChanges
    ours: frozenset[Place] = frozenset()


_HINT_BUSY: Final = "End the process, or choose another place."
_HINT_NOT_OURS: Final = (
    "Destroy it (`nvidia-smi mig -i UUID -gi ID -dci`, then `-dgi`), or choose another place."
)


def plan_changes(
    state: MigLayout, wanted: Sequence[Place], leave: MigPermissions
) -> tuple[Step, ...] | Refused:
    """Return the steps from what exists to the wanted instances, each with its compute instance;
    none if nothing has to change.

    No order of steps destroys fewer instances, and an instance that fits is never destroyed.
    """
    if not state.capable:
        return Refused("the GPU has no MIG", "Use it whole, by memory shares or with MPS.")
    if state.pending != state.enabled:
        mode = "on" if state.pending else "off"
        return Refused(
            f"MIG is to be turned {mode} with the GPU's next reset",
            "Reset the idle GPU with `nvidia-smi --gpu-reset -i UUID`, or reboot.",
        )
    if not state.enabled:
        return Refused(
            "MIG is off",
            "Turn it on with `nvidia-smi -i UUID -mig 1` while no process uses the GPU.",
        )
    wrong = illegal(state.profiles, wanted)
    if wrong:
        return Refused(wrong, _offer(state.profiles))
    steps = _rebuild(state, wanted, leave)
    if steps and not isinstance(steps, Refused) and leave.changes == "never":
        return Refused(
            "the MIG geometry may not be changed (gpu.mig_changes is never)",
            "Make the instances yourself, or set gpu.mig_changes to instances.",
        )
    return steps


def plan_removal(state: MigLayout, place: Place) -> tuple[Step, ...] | Refused:
    """Return the steps that destroy one instance of ours, even an incomplete one."""
    found = next((i for i in state.instances if i.place == place), None)
    if found is None:
        return ()
    if found.busy:
        return Refused(f"a process runs in {place_text(place)}", "End it, then try again.")
    return tuple(_destroy(found))


def illegal(profiles: Sequence[MigProfile], places: Collection[Place]) -> str:
    """Say why no driver would hold these instances together; empty if it would."""
    offered = {p.name: p for p in profiles}
    holder: dict[int, Place] = {}
    for place in sorted(places, key=lambda p: p[1]):
        name, start, size = place
        profile = offered.get(name)
        if profile is None:
            return f"there is no MIG profile {name}"
        if size != profile.memory_slices:
            return f"an instance of {name} covers {profile.memory_slices} memory slices, not {size}"
        if start not in starts_of(profile):
            return f"an instance of {name} cannot start at slice {start}"
        for number in range(start, start + size):
            if number in holder:
                return f"{place_text(holder[number])} and {place_text(place)} overlap"
            holder[number] = place
    for name, count in collections.Counter(name for name, _, _ in places).items():
        if count > offered[name].max_instances:
            return f"a GPU holds {offered[name].max_instances} of {name}, not {count}"
    return ""


def place_text(place: Place) -> str:
    """Write a place as in a geometry: "2g.20gb@4"."""
    return f"{place[0]}@{place[1]}"


def step_text(step: Step) -> str:
    """Describe a step in words, for people."""
    match step:
        case DestroyComputeInstance(place=place):
            return f"destroy the compute instance of {place_text(place)}"
        case DestroyGpuInstance(place=place):
            return f"destroy the GPU instance {place_text(place)}"
        case CreateGpuInstance(place=place):
            return f"create the GPU instance {place_text(place)}"
        case CreateComputeInstance(place=place):
            return f"create the compute instance of {place_text(place)}"


def _rebuild(
    state: MigLayout, wanted: Sequence[Place], leave: MigPermissions
) -> tuple[Step, ...] | Refused:
    there = {i.place: i for i in state.instances}
    missing = [place for place in wanted if place not in there]
    mended: list[Step] = []
    for place in wanted:
        found = there.get(place)
        if found is None or found.whole:
            continue
        stop = _why_not_mended(found, leave)
        if stop is not None:
            return stop
        if found.compute_instances:
            mended.append(DestroyComputeInstance(place))
        mended.append(CreateComputeInstance(place))
    others = [i for i in state.instances if i.place not in wanted]
    going = _in_the_way(others, missing, wanted, state.profiles, leave)
    for i in going:
        stop = _why_kept(i, leave)
        if stop is not None:
            return stop
    destroyed = [step for i in going for step in _destroy(i)]
    return (*destroyed, *mended, *_create(missing))


def _in_the_way(
    others: Sequence[PresentInstance],
    missing: Sequence[Place],
    wanted: Sequence[Place],
    profiles: Sequence[MigProfile],
    leave: MigPermissions,
) -> list[PresentInstance]:
    """Return instances that have to go: they overlap missing ones, or exceed a profile's
    maximum.
    """
    slices = covered_slices(tuple(missing))
    going = [i for i in others if slices & covered_slices((i.place,))]
    most = {p.name: p.max_instances for p in profiles}
    for name in sorted({name for name, _, _ in missing}):
        count = sum(place[0] == name for place in wanted)
        alike = [i for i in others if i.place[0] == name and i not in going]
        beyond = count + len(alike) - most[name]
        if beyond > 0:
            alike.sort(key=lambda i: (_why_kept(i, leave) is not None, i.place[1]))
            going += alike[:beyond]
    return sorted(going, key=lambda i: i.place[1])


def _why_kept(instance: PresentInstance, leave: MigPermissions) -> Refused | None:
    """Explain why an instance may not be destroyed; None if it may."""
    text = place_text(instance.place)
    if instance.busy:
        return Refused(f"a process runs in {text}, which is in the way", _HINT_BUSY)
    if instance.place not in leave.ours:
        return Refused(f"{text} is in the way, and is needed or was made by others", _HINT_NOT_OURS)
    return None


def _why_not_mended(instance: PresentInstance, leave: MigPermissions) -> Refused | None:
    """Explain why an incomplete instance may not be completed; None if it may."""
    if instance.compute_instances:
        return _why_kept(instance, leave)
    if instance.place in leave.ours:
        return None
    text = place_text(instance.place)
    return Refused(
        f"{text} was made by others and has no compute instance, so nothing can run in it",
        "Complete it (`nvidia-smi mig -i UUID -gi ID -cci`) or destroy it (`nvidia-smi mig -i UUID "
        "-gi ID -dgi`); or choose another place.",
    )


def _destroy(instance: PresentInstance) -> list[Step]:
    steps: list[Step] = [DestroyComputeInstance(instance.place)] * bool(instance.compute_instances)
    return [*steps, DestroyGpuInstance(instance.place)]


def _create(places: Sequence[Place]) -> list[Step]:
    steps: list[Step] = []
    # The largest first: if the driver refuses one after all, the least is lost.
    for place in sorted(places, key=lambda p: (-p[2], p[1])):
        steps += [CreateGpuInstance(place), CreateComputeInstance(place)]
    return steps


def _offer(profiles: Sequence[MigProfile]) -> str:
    known = ", ".join(f"{p.name} at {', '.join(str(s) for s in starts_of(p))}" for p in profiles)
    return f"It offers {known}." if known else "The driver lists no MIG profiles."
