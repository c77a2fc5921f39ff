"""Implements `partitiond profile list` and its siblings: manages stored profiles and files."""

import sys
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
    NotFoundError,
    PartitiondError,
    ProfileError,
)
from partitiond.core.model.spec import Slo
from partitiond.core.profile.record import Profile
from partitiond.core.views.lists import ProfileView
from partitiond.fleet.profile_files import profile_paths, read_profile
from partitiond.profiler.plot import plot_profile
from partitiond.serde import to_json

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient

T = TypeVar("T")
PLOT_SUFFIXES = (".png", ".svg")


@spread
def list_profiles(
    ctx: typer.Context,
    model: str | None = option("Only this model's."),
    as_json: JsonOption = False,
) -> None:
    """List profiles, newest first.

    Each with its knee, capacity, memory and age, and why it is stale.
    """
    with client_of(ctx) as client:
        views = client.profile_views(model)
    plain = [_with_stale(view) for view in views]
    emit(plain, as_json=as_json, render=lambda: profiles_table(views))


@spread
def show(
    ctx: typer.Context,
    profile_id: ProfileArgument,
    plot: Path | None = option("Also draw it (.png or .svg).", metavar="FILE"),
    as_json: JsonOption = False,
) -> None:
    """Show all that a profile holds.

    The points with their intervals, points by name, memory, capacity, fits, and how it came to be.
    """
    check_plot_path(plot)
    with client_of(ctx) as client:
        view = _with_profile(client, profile_id, client.profile_view)
        slo = _slo_of(client, view.profile)
    plain = _with_stale(view)
    emit(plain, as_json=as_json, render=lambda: profile_details(view, slo))
    if plot is not None:
        draw(view.profile, plot, slo)


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


def draw(profile: Profile, path: Path, slo: Slo | None = None) -> None:
    """Plot to a file. Raises ProfileError if it cannot be written or its suffix is unknown."""
    check_plot_path(path)
    try:
        plot_profile(profile, path, slo=slo)
    except OSError as error:
        raise ProfileError(
            f"{path} cannot be written: {error.strerror}.", hint="Choose another file."
        ) from error
    say(f"Plot written to {path}")


def check_plot_path(path: Path | None) -> None:
    """Refuse a plot that could not be written, before measuring. Raises ProfileError."""
    if path is None:
        return
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise ProfileError(
            f"{path} is neither .png nor .svg.", hint="Name the plot for example frontier.svg."
        )
    if not path.absolute().parent.is_dir():
        raise ProfileError(f"there is no folder {path.parent}.", hint="Make it first.")


@spread
def export(
    ctx: typer.Context,
    profile_id: ProfileArgument,
    output: Path | None = option("File; default standard output.", "--output", "-o"),
    as_json: JsonOption = False,
) -> None:
    """Write a profile as JSON, to keep or to import elsewhere."""
    del as_json  # an export is always JSON
    with client_of(ctx) as client:
        profile = _with_profile(client, profile_id, client.profile_by_id)
    text = to_json(profile, indent=2) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ProfileError(
            f"{output} cannot be written: {error.strerror}.", hint="Choose another file."
        ) from error
    say(f"Profile {profile.id} written to {output}")


@spread
def import_profiles(
    ctx: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Exported profiles, or folders of them."),
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


@spread
def prune(
    ctx: typer.Context,
    yes: bool = option("Delete them; this cannot be undone.", "--yes", "-y"),
    as_json: JsonOption = False,
) -> None:
    """List profiles that nothing needs any more, or delete them.

    Those are superseded or stale, and used by no plan. Stale ones that nothing has followed, and
    those of models that are not registered, stay.
    """
    with client_of(ctx) as client:
        found = client.prune_profiles(delete=yes)
    if as_json:
        print_json({"deleted": yes, "profiles": found})
        return
    for one in found:
        say(f"{one.id} of {one.model}: {'; '.join(one.reasons)}")
    if not found:
        say("There is nothing to delete.")
    elif yes:
        say(f"Deleted: {len(found)}.")
    else:
        say(f"Nothing was deleted. To delete {len(found)}: partitiond profile prune --yes")


def _not_all_kept(refused: Sequence[ConflictError], count: int) -> PartitiondError:
    if count == 1:
        return refused[0]
    lines = "\n".join(f"  {error.message}" for error in refused)
    return ConflictError(
        f"{len(refused)} of {count} profiles were not kept:\n{lines}", hint=refused[0].hint
    )
