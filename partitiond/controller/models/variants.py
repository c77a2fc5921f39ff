"""Handles the forms of a model: itself, and the variants that its user accepts in its place."""

import dataclasses
from collections.abc import Mapping, Sequence

from partitiond.controller.profiles.profiling import estimates
from partitiond.controller.profiles.targets import ProfileTarget
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.recognised import as_stored, recognised, started
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.record import Profile
from partitiond.core.replica.releases import engine_parts
from partitiond.ports import ModelResolver


async def recognise(
    resolver: ModelResolver, spec: ModelSpec
) -> tuple[ModelSpec, Mapping[str, Architecture]]:
    """Return the spec as it is stored, and the architecture of every form, by name.

    No weights are fetched.

    Raises:
        ModelSourceError, SpecError: a form cannot be had. The model is then not registered at all,
            because a variant that never starts would never be noticed.
    """
    found = {name: await resolver.architecture(spec.as_variant(name)) for name in spec.form_names}
    recognised(spec, found)  # raises
    return as_stored(spec, found), found


def form_estimates(
    spec: ModelSpec,
    architectures: Mapping[str, Architecture],
    targets: Sequence[ProfileTarget],
    created_at: str,
) -> tuple[Profile, ...]:
    """Return estimated profiles of every form on each target, in place of former estimates."""
    return tuple(
        _of_form(profile, name)
        for name in spec.form_names
        for form in (dataclasses.replace(spec.as_variant(name), variants=()),)
        for profile in estimates(
            started(form, architectures[name]), architectures[name], targets, created_at
        )
    )


def _of_form(profile: Profile, variant: str) -> Profile:
    """Return an estimate under its form's name: forms of a model must not replace each other."""
    if not variant:
        return profile
    return dataclasses.replace(profile, id=f"{profile.id}-{variant}", variant=variant)


def other_form(old: ModelSpec, new: ModelSpec, variant: str) -> bool:
    """Whether an engine of a form was started with something that the new spec changes.

    A variant that is not listed any more does not count: the next plan stops its engines.
    """
    if any(variant not in spec.form_names for spec in (old, new)):
        return False
    return engine_parts(old.as_variant(variant)) != engine_parts(new.as_variant(variant))
