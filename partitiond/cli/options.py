"""Defines options that several commands share, and reads the values of the global ones."""

import dataclasses
import functools
import inspect
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_type_hints

import typer

from partitiond.cli.form import OptionForm
from partitiond.core.errors import InputError, PartitiondError, SettingsError, UnauthorizedError

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient
    from partitiond.core.dispatch.routing import RequestLimits
    from partitiond.settings.schema import LoadedSettings, Settings

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
AllOption = Annotated[
    bool,
    typer.Option("--all", help="Print all of a large fleet, which else is shown as a page."),
]
NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="Return at once instead of showing progress to the end.")
]


@dataclasses.dataclass(frozen=True, slots=True)
class _Option:
    """A declared option: its default, and what typer has to know."""

    names: tuple[str, ...]
    default: Any
    told: Mapping[str, Any]


def option(about: str, *names: str, default: Any = None, **told: Any) -> Any:
    """Declare an option, as the default of a parameter of a command or of a field of a record.

    Args:
        about: the help text.
        names: as typed; if left out, that of the parameter (a flag has no opposite then).
        default: False for a flag if left out.
        told: what else typer is told, such as the metavar or bounds.
    """
    return _Option(names, default, {"help": about, **told})


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    """Return the parameter from which typer makes the option or the argument."""
    if isinstance(default, _Option):
        flag = kind is bool
        own = (f"--{name.replace('_', '-')}",) if flag else ()
        kind = Annotated[kind, typer.Option(*(default.names or own), **default.told)]
        default = False if flag and default.default is None else default.default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function whose options are declared by `option`, or by a form.

    A parameter whose default is a form becomes its options; the function gets the body that they
    make.
    """
    hints = get_type_hints(function, include_extras=True)
    given: list[inspect.Parameter] = []
    forms: dict[str, OptionForm] = {}
    for parameter in inspect.signature(function).parameters.values():
        if isinstance(parameter.default, OptionForm):
            forms[parameter.name] = parameter.default
            given += parameter.default.parameters()
        else:
            given.append(_parameter(parameter.name, hints[parameter.name], parameter.default))
    defaults = {p.name: p.default for p in given if p.default is not p.empty}

    @functools.wraps(function)
    def called(**values: Any) -> None:
        values = defaults | values
        for name, form in forms.items():
            values[name] = form.body_of({each: values.pop(each) for each in form.names()})
        function(**values)

    called.__signature__ = inspect.Signature(given)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in given}
    return called


IN_UTC: Final = ContextVar("IN_UTC", default=False)
"""Whether times of day are shown in UTC: the global option `--utc`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Globals:
    """The options given before the command.

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


def parse_overrides(
    texts: tuple[str, ...], state_dir: Path | None, option: str = "--set "
) -> dict[str, str]:
    """Turn "engine.python=/x" texts into a mapping; `--state-dir` is added to it.

    Raises:
        SettingsError: a text has no "=".
    """
    found: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise SettingsError(
                f"{option}{text!r} is not of the form key=value.",
                hint=f"Write for example {option}proxy.port=9000"
                f"{'' if option else ', or proxy.port= to restore the default'}; "
                "`partitiond setup config show` lists the keys.",
            )
        found[key.strip()] = value.strip()
    if state_dir is not None:
        found["state_dir"] = str(state_dir.expanduser().absolute())
    return found


def loaded_settings(
    ctx: typer.Context, options: Mapping[str, str] | None = None
) -> "LoadedSettings":
    """Settings with the source of each value. Raises SettingsError.

    Args:
        options: values by dotted key that options of the command gave.
    """
    from partitiond.settings.schema import load_settings

    given = globals_of(ctx)
    overrides = parse_overrides(given.overrides, given.state_dir) | dict(options or {})
    return load_settings(given.config, os.environ, overrides)


def settings_of(ctx: typer.Context, options: Mapping[str, str] | None = None) -> "Settings":
    """The settings of this run, as `loaded_settings`. Raises SettingsError."""
    return loaded_settings(ctx, options).settings


def names_another_daemon() -> bool:
    """Whether the user named one (see `connect`): then this host is not what is asked about."""
    return bool(os.environ.get("PARTITIOND_URL"))


def connect(settings: "Settings") -> "ControlClient":
    """A client of the daemon that these settings name; the daemon may not be running.

    PARTITIOND_URL and PARTITIOND_TOKEN name another daemon, such as one behind a tunnel.
    """
    from partitiond.cli.starting import Starting
    from partitiond.client.client import ControlClient

    url = os.environ.get("PARTITIOND_URL") or settings.control_url
    given = os.environ.get("PARTITIOND_TOKEN", "").strip()
    path = settings.token_path
    reread = None if given else lambda: read_token(path)
    starts = (lambda: False) if names_another_daemon() else Starting(settings.lock_path).wait
    return ControlClient(
        url, given or read_token(path), actor=this_person(), reread=reread, starts=starts
    )


def this_person() -> str:
    """The user of this command, for the daemon's events: PARTITIOND_ACTOR, else user@host."""
    import getpass
    import socket

    from partitiond.core.actors import actor_from

    named = os.environ.get("PARTITIOND_ACTOR")
    if named:
        return actor_from(named, "")
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        user = f"uid-{os.getuid()}"
    return actor_from(user, socket.gethostname())


def read_token(path: Path) -> str:
    """The admin token, or empty if no daemon ever ran on the state folder.

    Raises:
        PartitiondError: the file holds something else.
    """
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
    except UnicodeDecodeError as error:
        raise PartitiondError(
            f"{path} holds no token: it is not plain text.",
            hint="Remove it and start the daemon again: it makes a new one.",
        ) from error


@contextmanager
def client_of(ctx: typer.Context) -> "Iterator[ControlClient]":
    """A connected client, closed at the end. Raises the errors of its first call."""
    with connected(settings_of(ctx)) as client:
        yield client


@contextmanager
def connected(settings: "Settings") -> "Iterator[ControlClient]":
    """A connected client as of `client_of`, from settings.

    Raises:
        UnauthorizedError: also if the state folder has no token: another daemon answers.
    """
    client = connect(settings)
    try:
        yield client
    except UnauthorizedError as error:
        if client.token or not _is_missing(settings.token_path):
            raise
        raise UnauthorizedError(
            f"no admin-token in {settings.state_dir}: no daemon ever ran there; the one on "
            f"{client.base_url} uses another state folder.",
            hint="Name that folder with --state-dir, or give its token in PARTITIOND_TOKEN.",
        ) from error
    finally:
        client.close()


def _is_missing(path: Path) -> bool:
    """Whether the path certainly does not exist; an unreadable folder proves nothing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def memory_bytes(text: str | None) -> int | None:
    """The size after --memory. Raises InputError: the text is not a size above 0."""
    from partitiond.core.units import parse_bytes

    if text is None:
        return None
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise InputError(f"--memory: {error}.", hint="As 6GiB.") from error
    if size <= 0:
        raise InputError("--memory must be above 0.", hint="As 6GiB; leave it out for all.")
    return int(size)


def moment(text: str, option: str) -> str:
    """The moment of a timestamp, or of a span before now such as "2h"; a day, or none, as it is.

    Raises:
        InputError: the text is neither.
    """
    from partitiond.core.instants import is_day, unix_seconds, utc_iso
    from partitiond.core.units import parse_duration

    if not text or is_day(text):
        return text
    for seconds_of in (unix_seconds, lambda ago: time.time() - parse_duration(ago)):
        with suppress(ValueError):
            return utc_iso(seconds_of(text))
    raise InputError(
        f"{option} {text!r} is no moment.",
        hint="As 2030-01-31, 2030-01-31T17:00:00Z, or how long ago: 90s, 30m, 2h, 7d.",
    )


def check_finite(**given: float | None) -> None:
    """Raise InputError for an option that is not a finite number; keywords are option names."""
    for name, value in given.items():
        if value is not None and not math.isfinite(value):
            option = name.replace("_", "-")
            raise InputError(f"--{option} must be a finite number, got {value}.", hint="As 2.5.")


def check_time_limit(seconds: float | None) -> None:
    """Raise InputError for a --time-limit that is not a finite number above 0."""
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise InputError(
            f"--time-limit must be a finite number of seconds above 0, got {seconds:g}.",
            hint="As 60; leave it out for the setting's.",
        )


def without_none(values: dict[str, Any]) -> dict[str, Any]:
    """The values that were given."""
    return {key: value for key, value in values.items() if value is not None}


def limits_text(limits: "RequestLimits") -> str:
    """Limits of one request on one line."""
    parts = (
        (limits.max_prompt_bytes, "bytes of prompts"),
        (limits.max_output_tokens, "output tokens"),
        (limits.max_sequences, "sequences"),
    )
    return ", ".join(f"{bound:,} {what}" for bound, what in parts if bound) or "none"
