"""Describes each surface that users and programs hold on to, as lines without its texts.

    python -m tests.surfaces.surfaces

writes all of them anew to `frozen/`. A change of a frozen file is a change for
users: it is listed in CHANGELOG.md.
"""

import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from docs import generate
from tests.surfaces.lines import Line, of_document, without_texts

FROZEN = Path(__file__).parent / "frozen"
ROOT = Path(__file__).parents[2]


def control_api() -> Iterator[Line]:
    """The OpenAPI document of the control API, made in a process of its own: which dataclasses say
    that they refuse unknown fields depends on what a process has read before (`partitiond.serde`).
    """
    script = "import json, docs.generate as g; print(json.dumps(g.control_api_document()))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return of_document(without_texts(json.loads(done.stdout)))


def endpoint_api() -> Iterator[Line]:
    """Kind of each route that engines answer."""
    from partitiond.proxy.request.routes import DATA_ROUTES

    for route in DATA_ROUTES:
        yield f"POST {route.path}", route.kind.value + (", streams" if route.streams else "")


def settings() -> Iterator[Line]:
    """Type, default and environment variable of each setting."""
    from partitiond.settings.schema import Settings
    from partitiond.settings.sources import describe

    return ((s.key, f"{s.type} = {s.default} ({s.environment})") for s in describe(Settings))


def metrics() -> Iterator[Line]:
    """Kind and labels of each metric, of the control plane and of the endpoint."""
    from partitiond.metrics import exposition as control
    from partitiond.proxy.telemetry import families

    for family in (*control.FAMILIES, *families.FAMILIES):
        yield family.name, f"{family.kind}({', '.join(family.labels)})"


def exit_codes() -> Iterator[Line]:
    """The exit status of each error code."""
    from partitiond.cli.exits import BY_CODE, MEANINGS

    yield "all", " ".join(str(int(code)) for code in sorted(MEANINGS))
    for name, code in BY_CODE.items():
        yield name, str(int(code))


def command_line() -> Iterator[Line]:
    """Every command with its arguments and options."""
    for path, command, _ in generate.commands(generate.command_line()):
        yield " ".join(("partitiond", *path)), ", ".join(sorted(_parameters(command)))


def _parameters(command: Any) -> Iterator[str]:
    for parameter in command.params:
        flags = [*parameter.opts, *parameter.secondary_opts]
        options = parameter.param_type_name == "option"
        yield " ".join(sorted(flags)) if options else f"<{parameter.name}>"


def store_schema() -> Iterator[Line]:
    """The columns of a new store's tables, and its indexes."""
    from partitiond.store import open_store

    with tempfile.TemporaryDirectory(prefix="pd-") as folder:
        file = Path(folder) / "store.sqlite3"
        open_store(file).close()
        connection = sqlite3.connect(file)
        rows = connection.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"
        ).fetchall()
        connection.close()
    for kind, name, sql in rows:
        yield f"{kind} {name}", " ".join(sql.split())


SURFACES: dict[str, Callable[[], Iterator[Line]]] = {
    "control-api": control_api,
    "endpoint-api": endpoint_api,
    "settings": settings,
    "metrics": metrics,
    "exit-codes": exit_codes,
    "command-line": command_line,
    "store-schema": store_schema,
}


def write(name: str, lines: Mapping[str, str]) -> None:
    """Freeze one surface."""
    text = "".join(f"{place}: {said}\n" for place, said in sorted(lines.items()))
    (FROZEN / f"{name}.txt").write_text(text, encoding="utf-8")


def frozen(name: str) -> dict[str, str]:
    """A surface as it was frozen."""
    text = (FROZEN / f"{name}.txt").read_text(encoding="utf-8")
    parts = (line.partition(": ") for line in text.splitlines())
    return {place: said for place, _, said in parts}


if __name__ == "__main__":
    for name, make in SURFACES.items():
        write(name, dict(make()))
