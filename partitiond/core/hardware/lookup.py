"""Finds the kind of device that a user's text names: keys, other names, MIG slices."""

import difflib
import re
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.hardware.cpus import cpu_hardware
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import HardwareSpec, MigProfile, SharingMode
from partitiond.core.hardware.partition import PartitionSize

_CPU_KEY: Final = re.compile(r"^cpu-.*?(\d{1,5})c$")
_BY_NAME: Final[dict[str, HardwareSpec]] = {
    name: spec for spec in HARDWARE.values() for name in (spec.key, *spec.aliases)
}


def find_hardware(text: str) -> tuple[HardwareSpec, MigProfile | None]:
    """Return the kind of GPU behind a name, and the MIG profile after a colon.

    Args:
        text: a key or another name of the catalog, as "a100-40gb", "L4", "a100-40gb:1g.5gb".

    Raises:
        SpecError: the catalog has no such GPU, or the GPU has no such MIG profile; the hint names
            the nearest ones.
    """
    name, colon, slice_name = text.strip().lower().partition(":")
    spec = _BY_NAME.get(name)
    if spec is None:
        near = difflib.get_close_matches(name, _BY_NAME, n=3, cutoff=0.5)
        nearest = f"Did you mean {' or '.join(near)}? " if near else ""
        raise SpecError(
            f"the catalog has no hardware {name!r}.",
            hint=f"{nearest}It has {', '.join(HARDWARE)}; 'cpu' is this host's CPU.",
            facts={"hardware": name, "nearest": near},
        )
    return spec, mig_profile(spec, slice_name) if colon else None


def hardware_for_key(key: str) -> HardwareSpec:
    """Return the kind of device behind the hardware key of a profile.

    A CPU's key names its number of cores; their speed is assumed.

    Args:
        key: as profiles carry it, "a100-40gb" or "cpu-amd-epyc-2c".

    Raises:
        SpecError: the catalog has no such GPU.
    """
    cpu = _CPU_KEY.match(key)
    if cpu is not None:
        return cpu_hardware(key, int(cpu.group(1)), 0)
    return find_hardware(key)[0]


def mig_profile(spec: HardwareSpec, name: str) -> MigProfile:
    """Return the MIG profile of this name.

    Raises:
        SpecError: the GPU offers no profile of this name.
    """
    for found in spec.mig_profiles:
        if found.name == name:
            return found
    offered = ", ".join(profile.name for profile in spec.mig_profiles)
    raise SpecError(
        f"{spec.key} has no MIG profile {name!r}.",
        hint=f"It offers {offered}." if offered else "It cannot be cut by MIG at all.",
        facts={"hardware": spec.key, "mig_profile": name},
    )


def sm_share(spec: HardwareSpec, size: PartitionSize) -> float:
    """Return the share of a GPU's SMs that a partition computes with.

    Raises:
        SpecError: the GPU has no such MIG profile.
    """
    match size.mode:
        case SharingMode.MPS:
            return size.sm_percent / 100
        case SharingMode.MIG:
            return mig_profile(spec, size.mig_profile).sm_count / spec.sm_count
        case _:
            return 1.0
