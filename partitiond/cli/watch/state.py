"""Holds the state of `partitiond top` and changes it by keys. Pure."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

from partitiond.core.views.overview import ModelOverview, Overview, ReplicaOverview

SECTIONS: Final = ("devices", "models", "replicas", "jobs", "events")
SECTION_KEYS: Final[Mapping[str, str]] = {
    "d": "devices",
    "m": "models",
    "r": "replicas",
    "j": "jobs",
    "e": "events",
}

MODEL_SORTS: Final[Mapping[str, Callable[[ModelOverview], Any]]] = {
    "name": lambda m: m.name,
    "demand": lambda m: -(m.traffic.req_per_s if m.traffic else 0.0),
    "tokens": lambda m: -(m.traffic.output_tokens_per_s if m.traffic else 0.0),
    "ttft": lambda m: -((m.traffic.ttft_p95_seconds if m.traffic else None) or 0.0),
    "queue": lambda m: -(m.traffic.waiting if m.traffic else 0),
}
REPLICA_SORTS: Final[Mapping[str, Callable[[ReplicaOverview], Any]]] = {
    "name": lambda r: r.engine,
    "demand": lambda r: -(r.measured.req_per_s if r.measured else 0.0),
    "tokens": lambda r: -(r.measured.output_tokens_per_s if r.measured else 0.0),
    "ttft": lambda r: -((r.measured.first_seconds if r.measured else None) or 0.0),
    "queue": lambda r: -((r.in_flight or 0) / max(1, r.limit)),
}
SORTS: Final = tuple(MODEL_SORTS)

ENTER: Final = frozenset({"\r", "\n"})
BACKSPACE: Final = frozenset({"\x7f", "\x08"})
ESCAPE: Final = "\x1b"
END: Final = frozenset({"q", "\x03", "\x04"})
"""q, and the characters of Ctrl-C and Ctrl-D if the terminal passes them on."""


@dataclasses.dataclass(frozen=True, slots=True)
class TopState:
    """The state of the display.

    Attributes:
        sort: one of `SORTS`; ties are sorted by name.
        find: show only rows with this text in name, model, device or state, in any letter case; if
            there are several hosts, in the host, too.
        typing: typed characters go into `find`.
        hidden: sections that are not shown.
        paused: figures are not updated.
        offset: the first line of models and of replicas that is shown.
        helping: the help on keys is shown instead.
        ended: the user has left `partitiond top`.
    """

    sort: str = "name"
    find: str = ""
    typing: bool = False
    hidden: frozenset[str] = frozenset()
    paused: bool = False
    offset: int = 0
    helping: bool = False
    ended: bool = False


def press(state: TopState, key: str) -> TopState:
    """The state after a key; an unknown key changes nothing."""
    if state.typing:
        return _typed(state, key)
    if key in END:
        return dataclasses.replace(state, ended=True)
    if key in SECTION_KEYS:
        return dataclasses.replace(state, hidden=state.hidden ^ {SECTION_KEYS[key]}, offset=0)
    match key:
        case "s" | "S":
            step = 1 if key == "s" else -1
            after = SORTS[(SORTS.index(state.sort) + step) % len(SORTS)]
            return dataclasses.replace(state, sort=after, offset=0)
        case "/":
            return dataclasses.replace(state, typing=True, helping=False)
        case "p" | " ":
            return dataclasses.replace(state, paused=not state.paused)
        case "h" | "?":
            return dataclasses.replace(state, helping=not state.helping)
        case "\x1b":
            return dataclasses.replace(state, helping=False, find="", offset=0)
        case "down" | "pagedown":
            return dataclasses.replace(state, offset=state.offset + (10 if "page" in key else 1))
        case "up" | "pageup":
            less = state.offset - (10 if "page" in key else 1)
            return dataclasses.replace(state, offset=max(0, less))
    return state


def _typed(state: TopState, key: str) -> TopState:
    if key in ENTER:
        return dataclasses.replace(state, typing=False)
    if key == ESCAPE:
        return dataclasses.replace(state, typing=False, find="", offset=0)
    if key in {"\x03", "\x04"}:
        return dataclasses.replace(state, ended=True)
    if key in BACKSPACE:
        return dataclasses.replace(state, find=state.find[:-1], offset=0)
    if len(key) == 1 and key.isprintable():
        return dataclasses.replace(state, find=state.find + key, offset=0)
    return state


def seen(overview: Overview, state: TopState) -> Overview:
    """The part of an overview that the state selects, in the state's order.

    A device is kept if one of its replicas is found.
    """
    word = state.find.casefold()

    def has(*texts: str) -> bool:
        return not word or any(word in text.casefold() for text in texts)

    def host(name: str) -> tuple[str, ...]:
        return (name,) if overview.hosts else ()

    models = [m for m in overview.models if has(m.name, m.availability)]
    replicas = [
        r for r in overview.replicas if has(r.engine, r.model, r.device_id, r.state, *host(r.host))
    ]
    with_replicas = {r.device_id for r in replicas}
    devices = [
        d
        for d in overview.devices
        if has(d.device.id, d.device.hardware, d.device.name, *host(d.device.host))
        or d.device.id in with_replicas
    ]
    models.sort(key=lambda m: (MODEL_SORTS[state.sort](m), m.name))
    replicas.sort(key=lambda r: (REPLICA_SORTS[state.sort](r), r.engine))
    return dataclasses.replace(
        overview,
        devices=tuple(devices),
        models=tuple(models),
        replicas=tuple(replicas),
        jobs=tuple(j for j in overview.jobs if has(j.id, j.subject, j.state.value)),
    )
