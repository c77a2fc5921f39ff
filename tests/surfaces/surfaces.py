"""Describes each surface that users and programs hold on to, as plain data without its texts.

    python -m tests.surfaces.surfaces [--print]

writes all of them anew to `frozen/`, or prints them. A change of a frozen file is a change for
users: it is listed in CHANGELOG.md.
"""

import json
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from docs import generate

FROZEN = Path(__file__).parent / "frozen"
TEXTS = {"description", "summary", "title"}
"""Keys of OpenAPI documents that are for people."""


def control_api() -> Any:
    """The OpenAPI document of the control API."""
    return without_texts(generate.control_api_document())


def endpoint_api() -> Any:
    """The OpenAPI document of the OpenAI-compatible endpoint."""
    from partitiond.proxy.request.openapi import document

    return without_texts(document())


def without_texts(value: Any, *, names: bool = False) -> Any:
    """The same without texts for people; `names`: the keys of this object are names."""
    if isinstance(value, dict):
        return {
            key: without_texts(part, names=key in {"properties", "schemas", "paths"} and not names)
            for key, part in value.items()
            if names or key not in TEXTS
        }
    return [without_texts(part) for part in value] if isinstance(value, list) else value


def settings() -> Any:
    """Type, default and environment variable of each setting."""
    from partitiond.settings.schema import list_settings

    return {s.key: [s.type, str(s.default), s.environment] for s in list_settings()}


def metrics() -> Any:
    """Kind and labels of each metric, of the control plane and of the endpoint."""
    from partitiond.metrics import exposition as control
    from partitiond.proxy.telemetry import families

    every = [*control.FAMILIES, *families.FAMILIES]
    return {family.name: [family.kind, *family.labels] for family in every}


def exit_codes() -> Any:
    """The exit status of each error code."""
    from partitiond.cli.exits import BY_CODE, MEANINGS

    by_error = {name: int(code) for name, code in BY_CODE.items()}
    return {"statuses": sorted(int(code) for code in MEANINGS), "errors": by_error}


def command_line() -> Any:
    """Every command with its arguments and options."""
    return {
        " ".join(("partitiond", *path)): sorted(_parameters(command))
        for path, command, _ in generate.commands(generate.command_line())
    }


def _parameters(command: Any) -> Iterator[str]:
    for parameter in command.params:
        flags = [*parameter.opts, *parameter.secondary_opts]
        options = parameter.param_type_name == "option"
        yield " ".join(sorted(flags)) if options else f"<{parameter.name}>"


def store_schema() -> Any:
    """The statements that make a new store's tables and indexes."""
    from partitiond.store import open_store

    with tempfile.TemporaryDirectory(prefix="pd-") as folder:
        file = Path(folder) / "store.sqlite3"
        open_store(file).close()
        connection = sqlite3.connect(file)
        rows = connection.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type, name"
        ).fetchall()
        connection.close()
    return {f"{kind} {name}": " ".join(sql.split()) for kind, name, sql in rows}


SURFACES: dict[str, Callable[[], Any]] = {
    "control-api": control_api,
    "endpoint-api": endpoint_api,
    "settings": settings,
    "metrics": metrics,
    "exit-codes": exit_codes,
    "command-line": command_line,
    "store-schema": store_schema,
}


def write(name: str, value: Any) -> None:
    """Freeze one surface."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    (FROZEN / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def frozen(name: str) -> Any:
    """A surface as it was frozen."""
    return json.loads((FROZEN / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    made = {name: make() for name, make in SURFACES.items()}
    if sys.argv[1:] == ["--print"]:
        print(json.dumps(made))
    else:
        for name, value in made.items():
            write(name, value)
