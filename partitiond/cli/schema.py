"""Implements `partitiond schema`: what may stand in a fleet file, and in the settings file."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from partitiond.cli.columns import fields
from partitiond.cli.options import JsonOption
from partitiond.cli.output import emit
from partitiond.core.errors import InputError


def schema(
    of: Annotated[str, typer.Argument(metavar="fleet|settings", help="Which file.")],
    as_json: JsonOption = False,
) -> None:
    """Show every key of a fleet file or of the settings file.

    With --json it is a JSON schema, which editors read to check and complete a file.
    """
    from partitiond.fleet.file import fleet_schema
    from partitiond.settings.schema import Settings

    schemas = {"fleet": fleet_schema, "settings": Settings.model_json_schema}
    if of not in schemas:
        raise InputError(f"there is no schema of {of!r}.", hint="Write fleet or settings.")
    found = schemas[of]()
    rows = keys_below(found, found)
    emit(found, as_json=as_json, render=lambda: fields(rows, ("key", "what it is")))


def keys_below(
    schema: Mapping[str, Any], node: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield the path and the description of each key, tables before what they hold. Pure."""
    for name, field in node.get("properties", {}).items():
        options = [field, *field.get("anyOf", ()), field.get("items", {})]
        inner = next((option["$ref"] for option in options if "$ref" in option), "")
        table = schema["$defs"][inner.rpartition("/")[2]] if inner else {}
        about = field.get("description") or table.get("description", "")
        yield f"{path}{name}", about.partition("\n")[0]
        yield from keys_below(schema, table, f"{path}{name}.")
