"""Finds the kept profiles that nothing needs any more. Pure."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from partitiond.controller.profiles.targets import best_profiles, speaks_for
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Placement
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.views.lists import PrunableProfile

SUPERSEDED = "superseded: plans use another profile of the same model, hardware and size"


def prunable(
    profiles: Iterable[Profile],
    specs: Mapping[str, Sequence[ModelSpec]],
    placements: Iterable[Placement],
    stale: Callable[[Profile], tuple[str, ...]],
) -> tuple[PrunableProfile, ...]:
    """Return the superseded and stale profiles that no plan uses, nor would use if made now.

    A stale profile without a successor stays: plans go on using it, with a wider margin. All
    profiles of models that are not registered stay, too: their models may come back. Estimates are
    few, one for each hardware and size, and are ignored.

    Args:
        profiles: all that are kept, newest first.
        specs: of each registered model as it is and as it was in releases that may come back.
        placements: of the applied plan, of those that wait, and those that a roll-back may use.
        stale: returns why a profile no longer speaks for what runs now; empty if it does.
    """
    kept = list(profiles)
    used = _used(placements)
    for name, forms in specs.items():
        own = [profile for profile in kept if profile.model == name]
        used |= {profile.id for spec in forms for profile in best_profiles(spec, own)}
    found = []
    for profile in kept:
        forms = specs.get(profile.model, ())
        if profile.id in used or not forms or profile.kind is ProfileKind.ESTIMATED:
            continue
        superseded = any(speaks_for(profile, spec) for spec in forms)
        reasons = ((SUPERSEDED,) if superseded else ()) + stale(profile)
        if reasons:
            found.append(PrunableProfile(profile.id, profile.model, reasons))
    return tuple(found)


def _used(placements: Iterable[Placement]) -> set[str]:
    """Return the profiles that plans rest on; a derived profile rests on the id before its "@"."""
    ids: Collection[str] = {placement.candidate.profile_id for placement in placements}
    return {*ids, *(profile_id.partition("@")[0] for profile_id in ids)}
