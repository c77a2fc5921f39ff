"""Refuses requests as vLLM does, and reads their fields as leniently as vLLM does.

vLLM refuses in three shapes: by its models of requests (type "Bad Request", the field's place in
`param`), by itself ("BadRequestError"), and by FastAPI's `{"detail": ...}`. It reads numbers and
booleans as pydantic does: "3" is 3, "true" is true.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

_TRUE: Final = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE: Final = frozenset({"false", "f", "no", "n", "off", "0"})
_SHOWN_CHARS: Final = 200
"""Characters of a value that an error shows, as in vLLM."""


class RefusedError(Exception):
    """A request that is refused: the OpenAI-shaped body and its HTTP status."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.body = {
            "error": {"message": message, "type": kind, "param": param, "code": status},
        }


def refused(message: str, param: str | None = None) -> RefusedError:
    """Make a refusal by vLLM itself."""
    return RefusedError(400, "BadRequestError", message, param)


def unknown_model(asked: object, model: str) -> RefusedError:
    """Make the refusal of another model's name."""
    message = f"The model `{asked}` does not exist. Valid aliases: {model}."
    return RefusedError(404, "NotFoundError", message, "model")


def invalid(
    kind: str, field: str, message: str, value: object, more: Mapping[str, object] | None = None
) -> RefusedError:
    """Return a refusal by vLLM's model of the request: `kind`, `message` and `more` are
    pydantic's.
    """
    place = f"body.{field}" if field else "body"
    entry = {"type": kind, "loc": place, "msg": message, "input": _shown(value), **(more or {})}
    return RefusedError(400, "Bad Request", f"1 validation error:\n  {entry}", place)


def missing(field: str, body: Mapping[str, Any]) -> RefusedError:
    """Make the refusal of a request without a required field."""
    return invalid("missing", field, "Field required", body)


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...[truncated]"


def read_body(raw: bytes) -> dict[str, Any]:
    """Return the request's JSON object. Raises RefusedError."""
    try:
        body = json.loads(raw)
    except json.JSONDecodeError as error:
        raise invalid("json_invalid", str(error.pos), "JSON decode error", {}) from error
    except UnicodeDecodeError as error:
        raise RefusedError(400, "detail", "There was an error parsing the body") from error
    if not isinstance(body, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise invalid("model_attributes_type", "", message, body)
    return body


def check_model(body: Mapping[str, Any], model: str) -> None:
    """Refuse other models; a missing name stands for this model."""
    asked = body.get("model")
    if asked and asked != model:
        raise unknown_model(asked, model)


def whole(body: Mapping[str, Any], field: str) -> int | None:
    """Return a whole number, or None if the field is left out."""
    value = body.get(field)
    return None if value is None else whole_of(value, field)


def whole_of(value: object, field: str) -> int:
    """Return a whole number, as pydantic reads one. Raises RefusedError."""
    should = "Input should be a valid integer"
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if value.is_integer():
            return int(value)
        raise invalid(
            "int_from_float", field, f"{should}, got a number with a fractional part", value
        )
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError as error:
            raise invalid(
                "int_parsing", field, f"{should}, unable to parse string as an integer", value
            ) from error
    raise invalid("int_type", field, should, value)


def number(body: Mapping[str, Any], field: str) -> float | None:
    """Return a finite number, or None if the field is left out. Raises RefusedError."""
    value = body.get(field)
    if value is None:
        return None
    should = "Input should be a valid number"
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError as error:
            raise invalid(
                "float_parsing", field, f"{should}, unable to parse string as a number", value
            ) from error
    if not isinstance(value, int | float):
        raise invalid("float_type", field, should, value)
    if not math.isfinite(value):
        raise refused(
            f"{field} must be a finite number, got {value}. (parameter={field}, value={value})",
            field,
        )
    return float(value)


def flag(body: Mapping[str, Any], field: str) -> bool:
    """Return a boolean, as pydantic reads one; false if the field is left out. Raises
    RefusedError.
    """
    value = body.get(field)
    if value is None or isinstance(value, bool):
        return bool(value)
    word = str(int(value)) if isinstance(value, int | float) and value in (0, 1) else value
    if isinstance(word, str) and word.lower() in _TRUE | _FALSE:
        return word.lower() in _TRUE
    kind = "bool_parsing" if isinstance(value, str | int | float) else "bool_type"
    ending = ", unable to interpret input" if kind == "bool_parsing" else ""
    raise invalid(kind, field, f"Input should be a valid boolean{ending}", value)


def texts(body: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """Return a text or a list of texts, or nothing. Raises RefusedError."""
    value = body.get(field)
    if value is None:
        return ()
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise invalid("string_type", field, "Input should be a valid string", value)
    return tuple(found)
