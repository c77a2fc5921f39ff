"""Implements `partitiond profile show` and `import`: manages stored profiles and files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from partitiond.cli.ids import OneProfileArgument, with_id
from partitiond.cli.options import JsonOption, client_of, option, spread
from partitiond.cli.output import emit, jsonable, out, print_json, say
from partitiond.cli.profile.details import profile_details
from partitiond.cli.profile.table import profiles_table
from partitiond.core.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    PartitiondError,
)
from partitiond.core.model.spec import Slo
from partitiond.core.profile.record import Profile
from partitiond.core.views.lists import ProfileView
from partitiond.fleet.profile_files import profile_paths, read_profile

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient

T = TypeVar("T")
WIDE: Final = 110
"""Columns from which the list has variant, partition and workload beside the id."""


@spread
def show(
    ctx: typer.Context,
    profile_id: OneProfileArgument = None,
    *,
    model: str | None = option("Only this model's."),
    as_json: JsonOption = False,
) -> None:
    """List profiles, newest first, or show all of one.

    The list has knee, capacity, memory and age, and why a profile is stale. One has its points,
    memory, capacity, and how it came to be; what --json prints of one is a file for `partitiond
    profile import`.
    """
    if profile_id is not None and model is not None:
        raise InputError("--model is of the list.", hint="Leave PROFILE out.")
    with client_of(ctx) as client:
        if profile_id is not None:
            one = _with_profile(client, profile_id, client.profile_view)
            slo = _slo_of(client, one.profile)
            plain_one = _with_stale(one)
            emit(plain_one, as_json=as_json, render=lambda: profile_details(one, slo))
            return
        views = client.profile_views(model)
    plain = [_with_stale(view) for view in views]
    emit(plain, as_json=as_json, render=lambda: profiles_table(views, wide=out().width >= WIDE))


def _with_profile(client: "ControlClient", given: str, use: Callable[[str], T]) -> T:
    """Use the profile of this id or beginning. Raises NotFoundError, InputError."""
    return with_id("profile", given, use, lambda: (v.profile.id for v in client.profile_views()))


def _slo_of(client: "ControlClient", profile: Profile) -> Slo | None:
    """Return the SLO of the registered model; if there is none, that of the measurement."""
    try:
        return client.model(profile.model).record.spec.slo
    except NotFoundError:
        return profile.slo


def _with_stale(view: ProfileView) -> dict[str, object]:
    """Return a profile as JSON, with the reason why it is stale beside its fields."""
    return {**jsonable(view.profile), "stale": view.stale}


@spread
def import_profiles(
    ctx: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Made by `profile show --json`, or their folders."),
    ],
    replace: bool = option("Give up another profile that has the same id."),
    as_json: JsonOption = False,
) -> None:
    """Keep profiles that were measured elsewhere.

    All files are read and checked before the first is kept. A profile whose id is taken by
    another one is left out, and the command fails at its end, unless --replace is given.
    """
    profiles = [read_profile(path) for path in profile_paths(files)]
    kept, refused = [], []
    with client_of(ctx) as client:
        for profile in profiles:
            try:
                kept.append(client.import_profile(profile, replace=replace))
            except ConflictError as error:
                refused.append(error)
                continue
            if not as_json:
                say(f"Profile {profile.id} of {profile.model} is kept.")
    if as_json:
        print_json(kept)
    if refused:
        raise _not_all_kept(refused, len(profiles))


def _not_all_kept(refused: Sequence[ConflictError], count: int) -> PartitiondError:
    if count == 1:
        return refused[0]
    lines = "\n".join(f"  {error.message}" for error in refused)
    return ConflictError(
        f"{len(refused)} of {count} profiles were not kept:\n{lines}", hint=refused[0].hint
    )
