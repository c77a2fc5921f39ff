"""Implements `partitiond setup config`: shows the settings with their origins, and changes them."""

from typing import Annotated

import typer
from rich.text import Text

from partitiond.cli.options import JsonOption, globals_of, loaded_settings, parse_overrides
from partitiond.cli.output import out, print_json, say
from partitiond.settings.changes import write_settings
from partitiond.settings.schema import default_config_files, settings_values


def show(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Show every setting, its value and where the value came from."""
    loaded = loaded_settings(ctx)
    values = settings_values(loaded.settings)
    if as_json:
        print_json(
            {
                key: {"value": value, "origin": loaded.origins.get(key, "default")}
                for key, value in values.items()
            }
        )
        return

    looked_for = " and ".join(map(str, default_config_files()))
    file = loaded.config_file or f"none; looked for {looked_for}"
    out().print(f"# settings file: {file}", markup=False, soft_wrap=True)
    for key, value in values.items():
        origin = loaded.origins.get(key, "default")
        line = Text(f"{key:<36} {_text(value):<16}  ")
        # Values that were set stand out from defaults.
        line.append(origin, style="dim" if origin == "default" else "bold")
        out().print(line, soft_wrap=True)


def _text(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != [] else "[]"


def set_values(
    ctx: typer.Context,
    pairs: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE...", help="As proxy.port=9000; KEY= restores defaults."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Write settings to the settings file, and check them.

    The rest of the file stays as it is. A running daemon takes some settings when it is sent
    SIGHUP, the others when it starts.
    """
    named = globals_of(ctx).config
    missing = named is not None and not named.exists()
    file = (named if missing else loaded_settings(ctx).config_file) or default_config_files()[0]
    if len(pairs) == 2 and not any("=" in word for word in pairs):
        pairs = ["=".join(pairs)]
    texts = parse_overrides(tuple(pairs), None, option="")
    written = write_settings(file, texts)
    if as_json:
        print_json({"file": str(file), "written": written})
        return
    for key, value in written.items():
        say(f"{key} {'has its default' if value is None else f'is {_text(value)}'}, in {file}")
