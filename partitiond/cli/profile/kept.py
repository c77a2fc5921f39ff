"""Implements `partitiond profile list` and its siblings: manages stored profiles and files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from partitiond.cli.ids import ProfileArgument, with_id
from partitiond.cli.options import JsonOption, client_of, option, spread
from partitiond.cli.output import emit, jsonable, print_json, say
from partitiond.cli.profile.table import profile_details, profiles_table
from partitiond.core.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    PartitiondError,
)
from partitiond.core.model.spec import Slo
from partitiond.core.profile.record import Profile
from partitiond.core.views.lists import ProfileView, PrunableProfile
from partitiond.fleet.profile_files import profile_paths, read_profile

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient

T = TypeVar("T")


@spread
def list_profiles(
    ctx: typer.Context,
    *,
    model: str | None = option("Only this model's."),
    unneeded: bool = option("Only those that are superseded or stale, and used by no plan."),
    delete: bool = option("With --unneeded: delete them; this cannot be undone."),
    as_json: JsonOption = False,
) -> None:
    """List profiles, newest first.

    Each with its knee, capacity, memory and age, and why it is stale. Of unneeded ones, those that
    are stale and that nothing has followed stay, and those of models that are not registered.
    """
    if delete and not unneeded:
        raise InputError("--delete goes with --unneeded.", hint="Write --unneeded --delete.")
    with client_of(ctx) as client:
        if unneeded:
            _unneeded(client.prune_profiles(delete=delete), deleted=delete, as_json=as_json)
            return
        views = client.profile_views(model)
    plain = [_with_stale(view) for view in views]
    emit(plain, as_json=as_json, render=lambda: profiles_table(views))


def _unneeded(found: Sequence[PrunableProfile], *, deleted: bool, as_json: bool) -> None:
    if as_json:
        print_json({"deleted": deleted, "profiles": found})
        return
    for one in found:
        say(f"{one.id} of {one.model}: {'; '.join(one.reasons)}")
    what = f"Deleted: {len(found)}." if deleted else "--delete deletes them."
    say(what if found else "There is nothing to delete.")


@spread
def show(
    ctx: typer.Context,
    profile_id: ProfileArgument,
    as_json: JsonOption = False,
) -> None:
    """Show all that a profile holds.

    The points with their intervals, points by name, memory, capacity, fits, and how it came to be.
    What --json prints is a file for `partitiond profile import`.
    """
    with client_of(ctx) as client:
        view = _with_profile(client, profile_id, client.profile_view)
        slo = _slo_of(client, view.profile)
    plain = _with_stale(view)
    emit(plain, as_json=as_json, render=lambda: profile_details(view, slo))


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
