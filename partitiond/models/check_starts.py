"""Starts a tiny model of every architecture on the engine, and writes the results down.

    python -m partitiond.models.check_starts --python ENGINE/bin/python [--only TEXT]

Each start is a process of its own with dummy weights, which generates two tokens. Results are
merged into `started.json` after every start, so that an interrupted run goes on where it was.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from partitiond.core.model.families import architecture_from_config
from partitiond.models.dummy import write_dummy_folder
from partitiond.models.process import ProcessResult, run
from partitiond.models.start_results import (
    Start,
    StartResults,
    starts_from_json,
    starts_to_json,
    tiny_configs,
)

RESULT: Final = Path(__file__).parent / "started.json"
_PROBE: Final = Path(__file__).parent / "scripts" / "probe_start.py"
_START_SECONDS: Final = 240.0
"""Many times what a tiny model takes, so that only a hang is cut off."""
_REASON_CHARACTERS: Final = 300
_REASON_LINES: Final = 3


async def start_once(python: Path, config: Mapping[str, Any]) -> tuple[Start, str]:
    """Start a model with this config; returns the result and the engine's version ("" if none)."""
    with tempfile.TemporaryDirectory(prefix="start-") as name:
        folder = Path(name) / "model"
        folder.mkdir()
        write_dummy_folder(config, folder)
        lines: list[str] = []
        finished = await run(
            [str(python), str(_PROBE), str(folder)],
            timeout_seconds=_START_SECONDS,
            on_line=lines.append,
            extra_env={"TMPDIR": name},
        )
    outcome = _outcome(lines)
    if finished.code or outcome is None:
        return Start(started=False, reason=_reason(lines, finished)), ""
    return _as_start(outcome, config), str(outcome["engine_version"])


def _outcome(lines: Sequence[str]) -> dict[str, Any] | None:
    """Return the last line that is a JSON object."""
    for line in reversed(lines):
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                found: dict[str, Any] = json.loads(line)
                return found
    return None


def _reason(lines: Sequence[str], finished: ProcessResult) -> str:
    """Return the lines with the reason: those of the last error at the end of a traceback."""
    if finished.timed_out:
        return f"it did not come up within {_START_SECONDS:.0f} s"
    at = max((number for number, line in enumerate(lines) if _is_error(line)), default=None)
    # The text of a validation error is on the lines after it, behind "Value error, ".
    said = [finished.last_line] if at is None else lines[at : at + _REASON_LINES]
    text = " ".join(" ".join(said).split()).rpartition("Value error, ")[2]
    text = re.sub(r"\[rank\d+\]: |(?<!\S)/\S+", _without_rank_and_path, text)
    return text.partition(". ")[0].rstrip(".")[:_REASON_CHARACTERS]


def _without_rank_and_path(found: re.Match[str]) -> str:
    """Remove both, which say nothing: there is one rank, and the folder is gone."""
    return "" if found[0].startswith("[") else "MODEL"


def _is_error(line: str) -> bool:
    """Return whether a line is the last of a traceback, as "ValueError: ..."."""
    word = line.partition(":")[0]
    return ":" in line and word.rpartition(".")[2].endswith(("Error", "Exception"))


def _as_start(outcome: Mapping[str, Any], config: Mapping[str, Any]) -> Start:
    layers = outcome["kv_layers"]
    tokens = [layer for layer in layers if "Mamba" not in layer["kind"]]
    positions = architecture_from_config(config).max_position
    return Start(
        started=outcome["tokens"] > 0,
        model_class=outcome["model_class"],
        fallback=outcome["fallback"],
        attention_backends=tuple(outcome["attention_backends"]),
        weights_bytes=outcome["weights_bytes"],
        kv_bytes_per_token=sum(
            layer["kv_bytes_per_block"] // layer["block_tokens"] for layer in tokens
        ),
        # A window as long as the longest context is no window.
        window_layers=sum(0 < (layer["window_tokens"] or 0) < positions for layer in tokens),
        state_layers=len(layers) - len(tokens),
        state_bytes_per_sequence=sum(
            layer["kv_bytes_per_block"] for layer in layers if layer not in tokens
        ),
    )


async def check(
    python: Path, configs: Mapping[str, Mapping[str, Any]], target: Path
) -> StartResults:
    """Start every config and merge the results into `target`."""
    starts = _known(target)
    for number, (key, config) in enumerate(configs.items(), 1):
        start, version = await start_once(python, config)
        starts = dataclasses.replace(
            starts,
            engine_version=version or starts.engine_version,
            architectures={**starts.architectures, key: start},
        )
        await asyncio.to_thread(target.write_text, starts_to_json(starts), "utf-8")
        what = start.model_class if start.started else f"NOT STARTED: {start.reason}"
        print(f"{number}/{len(configs)} {key}: {what}", flush=True)
    return starts


def _chosen(text: str) -> dict[str, dict[str, Any]]:
    """Return the architecture with exactly this key, or all whose key contains the text."""
    every = tiny_configs()
    if text in every:
        return {text: every[text]}
    return {key: config for key, config in every.items() if text in key}


def _known(target: Path) -> StartResults:
    if target.is_file():
        return starts_from_json(target.read_text(encoding="utf-8"))
    return StartResults(engine_version="", device="cpu", architectures={})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns 0 however many models start."""
    parser = argparse.ArgumentParser(prog="python -m partitiond.models.check_starts")
    parser.add_argument("--python", type=Path, required=True, help="the engine's interpreter")
    parser.add_argument("--only", default="", help="a key, or text that keys have")
    parser.add_argument("--output", type=Path, default=RESULT, help="default: the shipped file")
    given = parser.parse_args(arguments)
    configs = _chosen(given.only)
    if not configs:
        parser.error(f"no architecture has {given.only!r} in its key")
    starts = asyncio.run(check(given.python, configs, given.output))
    tried = [starts.architectures[key] for key in configs]
    print(f"{sum(start.started for start in tried)} of {len(tried)} started.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
