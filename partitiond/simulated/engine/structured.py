"""Makes the answers of constrained requests: JSON of a schema, or one of some choices."""

import json
from collections.abc import Mapping
from typing import Any, Final

from partitiond.simulated.engine.refusals import invalid, refused

_SAMPLES: Final[Mapping[str, Any]] = {
    "string": "small",
    "integer": 1,
    "number": 0.5,
    "boolean": True,
    "null": None,
    "array": [],
}
_MAX_DEPTH: Final = 8
"""Schemas may refer to themselves; deeper levels are left empty."""


def constrained_text(body: Mapping[str, Any]) -> str | None:
    """Return the text that `response_format` or `structured_outputs` require; None if any text will
    do.
    """
    wanted = body.get("structured_outputs")
    if isinstance(wanted, dict):
        if isinstance(wanted.get("choice"), list) and wanted["choice"]:
            return str(wanted["choice"][0])
        if isinstance(wanted.get("json"), dict):
            return json.dumps(instance_of(wanted["json"]))
    return _formatted(body.get("response_format"))


def _formatted(wanted: object) -> str | None:
    if not isinstance(wanted, dict):
        return None
    kind = wanted.get("type")
    if kind == "json_object":
        return json.dumps({"answer": "small models"})
    if kind == "json_schema":
        # The responses API has the schema beside the type, the chat API one level below.
        holder = wanted if "schema" in wanted else wanted.get("json_schema")
        if not isinstance(holder, dict):
            message = "When response_format type is 'json_schema', the 'json_schema' field must be "
            message += "provided. (parameter=response_format)"
            raise refused(message, "response_format")
        schema = holder.get("schema")
        return json.dumps(instance_of(schema if isinstance(schema, dict) else {}))
    if kind == "text":
        return None
    should = "Input should be 'text', 'json_object' or 'json_schema'"
    raise invalid("literal_error", "response_format.type", should, kind)


def instance_of(schema: Mapping[str, Any], depth: int = 0) -> Any:
    """Make a value that a JSON schema allows: its properties, with the simplest values."""
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    properties = schema.get("properties")
    if isinstance(properties, dict) and depth < _MAX_DEPTH:
        return {
            name: instance_of(part if isinstance(part, dict) else {}, depth + 1)
            for name, part in properties.items()
        }
    return _SAMPLES.get(kind, {}) if isinstance(kind, str) else {}
