"""Implements `partitiond keys`: manages API keys of the OpenAI-compatible endpoint."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

from partitiond.cli.columns import time_text
from partitiond.cli.ids import KeyArgument, OneKeyArgument, with_id
from partitiond.cli.keys import options as given
from partitiond.cli.keys.table import key_table, keys_table
from partitiond.cli.keys.usage import show_usage
from partitiond.cli.options import (
    JsonOption,
    client_of,
    names_another_daemon,
    option,
    settings_of,
    spread,
)
from partitiond.cli.output import emit, out, print_json, say, tell
from partitiond.core.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient

T = TypeVar("T")
WHOLE_ID: Final = re.compile("key-[0-9a-f]{8}")


def _with_key(client: "ControlClient", given: str, use: Callable[[str], T]) -> T:
    def ids() -> list[str]:
        there = client.keys()
        return [key.id for key in there]

    return with_id("key", given, use, ids)


@spread
def create(
    ctx: typer.Context,
    *,
    terms: Any = given.TERMS,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it once; only its hash is kept."""
    with client_of(ctx) as client:
        record, key = client.create_key(terms=terms)
    if as_json:
        print_json({"record": record, "key": key})
        return
    out().print(key, markup=False, soft_wrap=True)
    say(f"This is key {record.id}. It is shown only now: keep it. Clients send it as")
    say("  Authorization: Bearer <key>")
    _tell_unbound(ctx)


@spread
def show(
    ctx: typer.Context,
    key_id: OneKeyArgument = None,
    *,
    usage: bool = option("What each key used of each model."),
    since: str = option(
        "From then on: a time (2030-01-31, UTC), or so long ago (7d). "
        "Default: the start of this month.",
        default="",
        metavar="WHEN",
    ),
    until: str = option(
        "Until then, that hour, or that day where no time is given, included. Default: now.",
        default="",
        metavar="WHEN",
    ),
    by: str = option(
        "What a line is for: key, model, and one of hour, day and month. Default: key,model.",
        default="",
        metavar="WHAT",
    ),
    as_json: JsonOption = False,
) -> None:
    """List keys, show what one may do, or what all used.

    Used are requests and tokens. Hours are whole ones, in UTC.
    """
    if key_id if usage else since or until or by:
        raise InputError(
            "these options do not go together.",
            hint="Write KEY alone, or --usage with --since, --until and --by.",
        )
    with client_of(ctx) as client:
        if usage:
            show_usage(client, since, until, by or "key,model", as_json=as_json)
            return
        if key_id is not None:
            view = _with_key(client, key_id, client.key)
            emit(view, as_json=as_json, render=lambda: key_table(view))
            return
        keys = client.keys()
    emit(keys, as_json=as_json, render=lambda: keys_table(keys))
    if keys and not as_json:
        _tell_unbound(ctx)


def _tell_unbound(ctx: typer.Context) -> None:
    """Say that keys bind nobody, where this host's settings do not require them."""
    if not names_another_daemon() and not settings_of(ctx).proxy.require_keys:
        say(
            "Keys are not required: requests without one, or with a wrong one, are served without "
            "its limits. `partitiond setup config set proxy.require_keys=true`, and a restart, "
            "change that."
        )


@spread
def update(
    ctx: typer.Context,
    key_id: KeyArgument,
    *,
    rotate: str | None = option(
        "Give it another secret, printed once; the present one is taken as well for so long (90s, "
        "1h, 2d; 0: a leaked one).",
        metavar="TIME",
    ),
    terms: Any = given.TERMS,
    as_json: JsonOption = False,
) -> None:
    """Change what a key may do, from now on; give it another secret.

    What is not given stays; --model and --route name all of them anew.
    """
    if not terms and rotate is None:
        raise typer.BadParameter("nothing to change: give at least one option.")
    if terms and rotate is not None:
        raise InputError(
            "--rotate stands alone.", hint="Change first, and rotate by a second `keys update`."
        )
    with client_of(ctx) as client:
        if rotate is None:
            record = _with_key(client, key_id, lambda found: client.update_key(found, terms))
            tell(record, f"Key {record.id} is changed.", as_json=as_json)
            return
        seconds = given.seconds_of("--rotate", rotate)
        record, key = _with_key(client, key_id, lambda found: client.rotate_key(found, seconds))
    if as_json:
        print_json({"record": record, "key": key})
        return
    out().print(key, markup=False, soft_wrap=True)
    say(f"This is the new secret of key {record.id}. It is shown only now: keep it.")
    if record.previous_until is None:
        say("The one before is refused from now on.")
    else:
        say(f"The one before is taken until {time_text(record.previous_until)}.")


def remove(ctx: typer.Context, key_id: KeyArgument, as_json: JsonOption = False) -> None:
    """Remove a key: requests with it are refused from now on."""
    with client_of(ctx) as client:
        # A key that is removed but not confirmed by all hosts is asked for again by its whole id.
        try:
            key_id = _with_key(client, key_id, client.key).record.id
        except NotFoundError:
            if not WHOLE_ID.fullmatch(key_id):
                raise
        client.remove_key(key_id)
    tell({"removed": key_id}, f"Key {key_id} is removed.", as_json=as_json)
