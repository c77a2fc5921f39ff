"""Turns options for names, defaults and limits of requests into a body, and words them."""

import json
from typing import Any

from partitiond.cli.options import limits_body
from partitiond.core.errors import InputError
from partitiond.core.model.spec import ModelSpec


def requests_body(
    aliases: list[str] | None,
    defaults: list[str] | None,
    limits: tuple[int | None, int | None, int | None],
) -> dict[str, Any]:
    """The given options, as parts of a registration or its change. Raises InputError."""
    body: dict[str, Any] = {}
    if aliases:
        body["aliases"] = [] if aliases == ["none"] else aliases
    if defaults:
        body["request_defaults"] = {} if defaults == ["none"] else _parameters(defaults)
    bounds = limits_body(*limits)
    return body | ({"request_limits": bounds} if bounds else {})


def _parameters(texts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(
                f"--default {text!r} is not of the form NAME=VALUE.", hint="As temperature=0.2."
            )
        if name.strip() in found:
            raise InputError(f"--default names {name.strip()} twice.", hint="Give it once.")
        found[name.strip()] = _value(name.strip(), value.strip())
    return found


def _value(name: str, text: str) -> Any:
    """The value of the text if it is JSON (0.2, true, ["\\n"]), else the text as it is."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(
            f"--default {name}: the value is nested too deeply.",
            hint="Give a text, a number, a list or an object of them.",
        ) from error
    except ValueError:
        return text


def defaults_text(spec: ModelSpec) -> str:
    """Default parameters on one line."""
    return (
        ", ".join(f"{name}={json.dumps(value)}" for name, value in spec.request_defaults.items())
        or "none"
    )
