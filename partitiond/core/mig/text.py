"""Reads GPU instances as operators write them: "3g.40gb@4"."""

from collections.abc import Sequence

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import MigProfile
from partitiond.core.mig.changes import illegal
from partitiond.core.mig.geometry import Place
from partitiond.core.mig.names import canonical, read_name


def places_of(profiles: Sequence[MigProfile], texts: Sequence[str]) -> tuple[Place, ...]:
    """Read instances, each a MIG profile at its first memory slice, by their places.

    Args:
        profiles: sizes on offer.
        texts: one for each instance.

    Raises:
        SpecError: a text is not "PROFILE@SLICE", the GPU does not offer a profile, or the
            instances do not fit together.
    """
    sizes = {profile.name: profile.memory_slices for profile in profiles}
    found: list[Place] = []
    for text in texts:
        name, _, start = text.strip().partition("@")
        read, said = read_name(name), start.strip()
        if read is None or not read.whole or not (said.isascii() and said.isdigit()):
            raise SpecError(
                f"{text.strip()!r} is no MIG instance.",
                hint='Write a profile and its first memory slice, as "3g.40gb@4".',
            )
        name = canonical(name)
        if name not in sizes:
            raise SpecError(
                f"there is no MIG profile {name}.",
                hint=f"The GPU offers {', '.join(sizes) or 'none'}.",
            )
        found.append((name, int(said), sizes[name]))
    wrong = illegal(profiles, found)
    if wrong:
        raise SpecError(f"{wrong}.", hint="`nvidia-smi mig -lgipp` lists what a GPU offers.")
    return tuple(sorted(found, key=lambda place: place[1]))
