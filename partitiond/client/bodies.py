"""Encodes requests of the client: arguments as bodies, bodies as bytes, names as path segments."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from partitiond import serde
from partitiond.core.errors import InputError
from partitiond.core.events import EventFilter
from partitiond.core.keys.record import KeyTerms
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.answers import PlanQuestion
from partitiond.core.plan.record import Objective


def plan_body(question: PlanQuestion | Objective | str | None) -> dict[str, Any]:
    """Return a question as the body of POST /plan; unset fields are left out."""
    if question is None:
        return {}
    if not isinstance(question, PlanQuestion):
        return {"objective": str(question)}
    body: dict[str, Any] = serde.to_jsonable(question)
    return {key: v for key, v in body.items() if not (v is None or v is False or v == [])}


def registration_body(model: Mapping[str, Any] | ModelSpec) -> dict[str, Any]:
    """Return the body of POST /models for a body with a relative folder, or a specification."""
    return spec_body(model) if isinstance(model, ModelSpec) else with_absolute_folder(model)


def spec_body(spec: ModelSpec) -> dict[str, Any]:
    """Return a specification as the body of POST /models, with all that it asks for."""
    body: dict[str, Any] = serde.to_jsonable(spec)
    return {name: value for name, value in body.items() if name not in ModelSpec.NOTED}


def key_body(terms: Mapping[str, Any] | KeyTerms) -> dict[str, Any]:
    """Return a key's terms as the body of PATCH /keys; other fields of a record are left out."""
    if not isinstance(terms, KeyTerms):
        return dict(terms)
    body: dict[str, Any] = serde.to_jsonable(terms)
    return {name: body[name] for name in KeyTerms.__dataclass_fields__}


def with_absolute_folder(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a registration in which a relative folder as `model` is made absolute.

    The daemon has another working folder and home than the user.
    """
    model = body.get("model")
    if isinstance(model, str) and model.strip().startswith((".", "~")):
        folder = os.path.normpath(Path(model.strip()).expanduser().absolute())
        return {**body, "model": folder}
    return dict(body)


def encoded(body: object) -> bytes:
    """Encode a body as JSON. Raises InputError for numbers that are not finite, and non-text."""
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "a value holds bytes that are no UTF-8 text.", hint="Write it in UTF-8."
        ) from error
    except ValueError as error:
        field = _not_finite(body) or "a value"
        raise InputError(f"{field} is not a finite number.", hint="As 0.5 or 20.") from error


def _not_finite(value: object, path: str = "") -> str | None:
    """Return the path of the first number that is not finite, as "demand.req_per_s: nan"."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path}: {value}".removeprefix(": ")
    if not isinstance(value, Mapping):
        return None
    found = (_not_finite(item, f"{path}.{key}".lstrip(".")) for key, item in value.items())
    return next((name for name in found if name), None)


def quoted(part: str) -> str:
    """Quote one path segment. "." and ".." alone would mean "this folder" and "its parent"."""
    return quote(part, safe="").replace(".", "%2E") if set(part) == {"."} else quote(part, safe="")


def given(**values: object) -> dict[str, object]:
    """Return the values that are not None, as a query or a body."""
    return {name: value for name, value in values.items() if value is not None}


def filter_query(wanted: EventFilter) -> dict[str, object]:
    """Return the fields of a filter that are set, as a query of GET /events."""
    query: dict[str, object] = {
        "kind": list(wanted.kinds),
        "subject": wanted.subject,
        "actor": wanted.actor,
        "since": wanted.since,
        "until": wanted.until,
        "newest": wanted.newest,
    }
    return {name: value for name, value in query.items() if value}
