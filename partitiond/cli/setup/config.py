"""Implements `partitiond setup config`: shows the settings and where each value came from."""

import typer
from rich.text import Text

from partitiond.cli.columns import new_table
from partitiond.cli.options import JsonOption, loaded_settings
from partitiond.cli.output import out, print_json
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


def path(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Show which settings file is read, and the folders in use."""
    loaded = loaded_settings(ctx)
    settings = loaded.settings
    shown = {
        "config_file": str(loaded.config_file) if loaded.config_file else None,
        "looked_for": [str(candidate) for candidate in default_config_files()],
        "state_dir": str(settings.state_dir),
        "run_dir": str(settings.run_dir),
        "cache_dir": str(settings.cache_dir),
    }
    if as_json:
        print_json(shown)
        return

    table = new_table("what", "where")
    table.add_row("settings file", str(loaded.config_file or "none (defaults hold)"))
    table.add_row("looked for", ", ".join(map(str, default_config_files())))
    for key in ("state_dir", "run_dir", "cache_dir"):
        table.add_row(key, str(shown[key]))
    out().print(table)
