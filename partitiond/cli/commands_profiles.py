"""`partitiond profiles`: the measured (and estimated) profiles that are kept."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from partitiond.cli.options import JsonOption, client_of
from partitiond.cli.output import emit, print_json, say
from partitiond.core.errors import ProfileError
from partitiond.core.profile import Profile


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Profiles: list, show, export, import.")
    group.command("list")(list_profiles)
    group.command("show")(show)
    group.command("export")(export)
    group.command("import")(import_profile)
    app.add_typer(group, name="profiles")


ProfileArgument = Annotated[str, typer.Argument(metavar="PROFILE", help="Id of the profile.")]


def list_profiles(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Option("--model", help="Only this model's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List profiles, newest first."""
    from partitiond.cli.render_profile import profiles_table

    with client_of(ctx) as client:
        profiles = client.profiles(model)
    emit(profiles, as_json=as_json, render=lambda: profiles_table(profiles))


def show(
    ctx: typer.Context,
    profile_id: ProfileArgument,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw it (.png or .svg).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show one profile: the measured table, frontier and knee marked."""
    from partitiond.cli.render_profile import profile_table

    with client_of(ctx) as client:
        profile = client.profile_by_id(profile_id)
    emit(profile, as_json=as_json, render=lambda: profile_table(profile))
    if plot is not None:
        draw(profile, plot)


def draw(profile: Profile, path: Path) -> None:
    """Plot to a file. Raises ProfileError where it cannot be written or its kind is not known."""
    check_plot_path(path)
    from partitiond.profiler.plot import plot_profile

    plot_profile(profile, path)
    say(f"Plot written to {path}")


def check_plot_path(path: Path | None) -> None:
    """Refuse what could not be written, before anything is measured. Raises ProfileError."""
    if path is None:
        return
    if path.suffix.lower() not in {".png", ".svg"}:
        raise ProfileError(
            f"{path} is neither .png nor .svg.", hint="Name the plot for example frontier.svg."
        )
    if not path.absolute().parent.is_dir():
        raise ProfileError(f"there is no folder {path.parent}.", hint="Make it first.")


def export(
    ctx: typer.Context,
    profile_id: ProfileArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File; default standard output.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a profile as JSON, to keep or to import elsewhere."""
    from partitiond.serde import to_json

    del as_json  # an export is always JSON
    with client_of(ctx) as client:
        text = to_json(client.profile_by_id(profile_id), indent=2) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ProfileError(
            f"{output} cannot be written: {error.strerror}.", hint="Choose another file."
        ) from error
    say(f"Profile {profile_id} written to {output}")


def read_profile(path: Path) -> Profile:
    """A profile from an exported file. Raises ProfileError."""
    from partitiond.core.errors import InputError
    from partitiond.serde import from_json

    try:
        return from_json(Profile, path.read_bytes())
    except OSError as error:
        raise ProfileError(
            f"{path} cannot be read: {error.strerror}.", hint="Check the path."
        ) from error
    except InputError as error:
        raise ProfileError(
            f"{path} is {error.message}",
            hint="Give a file that `partitiond profiles export` wrote.",
        ) from error


def import_profile(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An exported profile.")],
    as_json: JsonOption = False,
) -> None:
    """Keep a profile that was measured elsewhere."""
    profile = read_profile(file)
    with client_of(ctx) as client:
        kept = client.import_profile(profile)
    if as_json:
        print_json(kept)
        return
    say(f"Profile {kept.id} of {kept.model} is kept.")
