"""The `--json` output of commands against a daemon with simulated engines, as shapes.

    python -m tests.surfaces.outputs

writes them anew to `frozen/json-outputs.txt`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.cli.test_with_daemon import FLEET, serving
from tests.e2e.harness import command
from tests.surfaces.shapes import lines_of, shape_of
from tests.surfaces.surfaces import write

NAME = "json-outputs"
NAMED = frozenset({".models", ".engines", ".settings"})
"""Objects whose keys are names."""
NAMES_OF = {"setup config show": NAMED | {""}}
"""Its keys are the settings, which are a surface of their own."""
MODEL = "fleet-model"


def outputs() -> dict[str, str]:
    """Run every command once, in an order in which each has something to say."""
    with serving() as daemon:
        return dict(
            line
            for words, value in _spoken(daemon.folder, daemon.env)
            for line in lines_of(words, shape_of(value, NAMES_OF.get(words, NAMED)))
        )


def _spoken(folder: Path, env: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Each command by its words, and what it wrote."""
    fleet = folder / "fleet.toml"
    fleet.write_text(FLEET, encoding="utf-8")
    simulated = ("--weights", "dummy", "--no-auto", "--engine-kind", "simulated")

    def said(words: str, *arguments: object, codes: tuple[int, ...] = (0,)) -> tuple[str, Any]:
        done = command(*words.split(), *arguments, "--json", env=env, code=-1)
        assert done.returncode in codes, done.stderr
        return words, json.loads(done.stdout)

    yield said("up", "-f", fleet)
    yield said("models add", "opt-125m", "--name", "other", *simulated)
    yield said("models update", "other", "--demand", "2")
    yield said("models")
    yield said("models show", MODEL)
    yield said("models show --drift")
    yield said("models catalog")
    yield said("status")
    profiles = said("profile")
    yield profiles
    (measured,) = [p["id"] for p in profiles[1] if p["kind"] == "measured"]
    yield said("profile show", measured)
    jobs = said("profile jobs")
    yield jobs
    yield said("devices")
    yield said("devices show", "cpu")
    yield said("devices cordon", "cpu", "--reason", "a test")
    yield said("devices cordon --lift", "cpu")
    yield said("plan", codes=(0, 7))
    yield said("events")
    yield said("keys create", "--label", "app")
    keys = said("keys")
    yield keys
    yield said("keys show", keys[1][0]["id"])
    yield said("keys update", keys[1][0]["id"], "--max-in-flight", "2")
    yield said("keys show --usage")
    yield said("keys remove", keys[1][0]["id"])
    yield said("setup config show")
    yield said("setup backup", folder / "backup.sqlite3.gz")
    yield said("doctor", codes=(0, 1))
    yield said("tools estimate", "opt-125m", "--hardware", "a100-80gb")
    yield said("models remove", "other")
    yield said("down")


if __name__ == "__main__":
    write(NAME, outputs())
