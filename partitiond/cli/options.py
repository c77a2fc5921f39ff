"""Options that several commands share, and the global ones' values."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partitiond.core.errors import SettingsError

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient
    from partitiond.settings import LoadedSettings, Settings

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="Return at once instead of showing progress to the end.")
]


@dataclasses.dataclass(frozen=True, slots=True)
class Globals:
    """What was given before the command.

    Attributes:
        overrides: "table.field=value" texts, in order.
        debug: show tracebacks.
    """

    config: Path | None = None
    state_dir: Path | None = None
    overrides: tuple[str, ...] = ()
    debug: bool = False


def globals_of(ctx: typer.Context) -> Globals:
    """The global options of this run."""
    found = ctx.find_object(Globals)
    return found if found is not None else Globals()


def parse_overrides(texts: tuple[str, ...], state_dir: Path | None) -> dict[str, str]:
    """Turn "engine.python=/x" texts into a mapping; `--state-dir` is one of them.

    Raises:
        SettingsError: a text has no "=".
    """
    found: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise SettingsError(
                f"--set {text!r} is not of the form key=value.",
                hint="Write for example --set proxy.port=9000; "
                "`partitiond config show` lists the keys.",
            )
        found[key.strip()] = value.strip()
    if state_dir is not None:
        found["state_dir"] = str(state_dir.expanduser().absolute())
    return found


def loaded_settings(ctx: typer.Context) -> "LoadedSettings":
    """Settings with where each value came from. Raises SettingsError."""
    from partitiond.settings import load_settings

    given = globals_of(ctx)
    return load_settings(
        given.config, os.environ, parse_overrides(given.overrides, given.state_dir)
    )


def settings_of(ctx: typer.Context) -> "Settings":
    """The settings of this run. Raises SettingsError."""
    return loaded_settings(ctx).settings


def connect(settings: "Settings") -> "ControlClient":
    """A client of the daemon that these settings name; it may not be running.

    PARTITIOND_URL and PARTITIOND_TOKEN name another daemon, as one behind a tunnel.
    """
    from partitiond.client.client import ControlClient

    url = os.environ.get("PARTITIOND_URL") or settings.control_url
    token = os.environ.get("PARTITIOND_TOKEN") or read_token(settings.token_path)
    return ControlClient(url, token)


def read_token(path: Path) -> str:
    """The admin token, or empty where no daemon ever ran on the state folder."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@contextmanager
def client_of(ctx: typer.Context) -> "Iterator[ControlClient]":
    """A connected client, closed at the end. Raises what the first call raises."""
    client = connect(settings_of(ctx))
    try:
        yield client
    finally:
        client.close()
