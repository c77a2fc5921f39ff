"""Resolves ids as people type them: whole, or a beginning that only one id has."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, TypeVar

import typer

from partitiond.core.errors import InputError, NotFoundError, PartitiondError

T = TypeVar("T")

LISTED_BY: Final[Mapping[str, str]] = {
    "device": "partitiond devices",
    "host": "partitiond hosts",
    "job": "partitiond profile jobs",
    "key": "partitiond keys",
    "model": "partitiond models",
    "plan": "partitiond plan",
    "profile": "partitiond profile show",
}
"""The command that lists all things of a kind."""
MOST_NAMED: Final = 8
"""Most candidates that a message names; more would hide its point."""


def possible_id(kind: str, name: str, value: str) -> str:
    """Return what was given as an id. Raises InputError and NotFoundError: it cannot be one."""
    if not value.strip():
        raise InputError(f"{name} is empty.", hint=_listed(kind))
    if "/" in value:  # no id has a "/"; it would change the API's path
        raise NotFoundError(f"there is no {kind} {value}.", hint=_listed(kind))
    return value


def argument_of(kind: str, metavar: str, text: str) -> typer.models.ArgumentInfo:
    """An argument for an id of this kind; text that cannot be an id is refused at once."""

    def possible(value: str | None) -> str | None:
        return None if value is None else possible_id(kind, metavar, value)

    found: typer.models.ArgumentInfo = typer.Argument(metavar=metavar, help=text, callback=possible)
    return found


DeviceArgument = Annotated[
    str, argument_of("device", "DEVICE", "Id of the device, or its beginning.")
]
OneDeviceArgument = Annotated[
    str | None, argument_of("device", "[DEVICE]", "Only this device: its id, or the beginning.")
]
JobArgument = Annotated[
    str | None, argument_of("job", "[JOB]", "Only this job: its id, or its number.")
]
KeyArgument = Annotated[str, argument_of("key", "KEY", "Id of the key, or its beginning.")]
OneKeyArgument = Annotated[
    str | None, argument_of("key", "[KEY]", "Only this key: its id, or the beginning.")
]
ModelArgument = Annotated[str, argument_of("model", "NAME", "Name of a registered model.")]
OneModelArgument = Annotated[
    str | None, argument_of("model", "[NAME]", "Only this model, with all of it.")
]
PlanArgument = Annotated[
    str | None,
    argument_of("plan", "[PLAN]", "Id of a shown plan, or its number; default a new one."),
]
OneProfileArgument = Annotated[
    str | None, argument_of("profile", "[PROFILE]", "Only this profile: its id, or the beginning.")
]


def with_id(kind: str, given: str, use: Callable[[str], T], ids: Callable[[], Iterable[str]]) -> T:
    """Use the given id, or else the only id that begins with it.

    The kind's word may be left out: "7" is "job-7".

    Raises:
        NotFoundError: no id begins with it.
        InputError: several ids do; the hint names them.
    """
    try:
        return use(given)
    except NotFoundError as error:
        there = set(ids())
        if given in there:
            raise  # the id exists, so something else was not found
        word = f"{kind}-"
        meant = word + given
        near = sorted(each for each in there if each.startswith((given, meant)))
        if word.startswith(given):  # "key-" names no key, even if there is only one
            near = near[:0] if len(near) == 1 else near
        if meant in there or len(near) == 1:
            return use(meant if meant in there else near[0])
        if near:
            raise InputError(
                f"{given} is the beginning of {len(near)} {kind} ids.",
                hint=f"Write more of it: {_named(near)}.",
                facts={kind: given},
            ) from error
        raise


def _listed(kind: str) -> str:
    return f"`{LISTED_BY[kind]}` shows what there is."


def fitting(error: PartitiondError) -> PartitiondError:
    """The error with a hint for users of the CLI if its own is for callers of the API."""
    hint = error.hint
    named = next((kind for kind in LISTED_BY if kind in error.facts), None)
    if "PATCH" in hint and named == "model":
        name = error.facts[named]
        hint = (
            f"Change it with `partitiond models update {name}`, remove it first with "
            f"`partitiond models remove {name}`, or choose another name with --name."
        )
    elif "openapi.json" in hint:
        hint = _options_in(error.message)
    elif isinstance(error, NotFoundError) and named and "Check the name" in hint:
        hint = hint.partition("Check the name")[0] + _listed(named)
    error.hint = hint
    return error


def _options_in(message: str) -> str:
    """Say which options give the fields that a message names."""
    from partitiond.cli.models.form import MODEL

    flags = [f"{row.typed} gives {row.path}" for row in MODEL.rows if f"{row.path}:" in message]
    return f"{', '.join(flags) or 'Correct what is named'}; the command's --help describes all."


def _named(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def short_ids(least: Mapping[str, str]) -> dict[str, str]:
    """Beginnings that no other of these ids has; each ends before a "-" or is the whole id.

    Args:
        least: by id, the beginning that its short form must include.
    """
    return {each: _shortest(each, begin, set(least) - {each}) for each, begin in least.items()}


def _shortest(each: str, begin: str, others: set[str]) -> str:
    end = len(begin if each.startswith(begin) else each)
    while any(other.startswith(each[:end]) for other in others):
        end += 1
        if end >= len(each):
            return each
    cut = each.find("-", end)
    return each if cut < 0 else each[:cut]
