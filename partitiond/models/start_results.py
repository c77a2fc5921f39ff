"""Holds the results of real starts: one tiny model of each architecture, on the pinned engine.

`started.json` is written by `python -m partitiond.models.check_starts` and shipped, so that the
catalog can say which models the engine serves with a class of its own, which with the slower
class of transformers, and which not at all.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from partitiond.core.model.architecture import Architecture
from partitiond.core.model.families import architecture_from_config
from partitiond.models.catalog import CATALOG, QUANTISED, CatalogEntry
from partitiond.models.shrink import shrunk


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """The start of a tiny model of one architecture.

    Attributes:
        started: the engine came up and generated tokens.
        reason: why it did not start, in a line; empty if it started.
        model_class: the class with which the engine served it.
        fallback: that class is the one of transformers, because the engine has none of its own.
        attention_backends: kernels that attention ran on.
        weights_bytes: weights as the engine allocated them, bfloat16 unless quantised.
        kv_bytes_per_token: what the engine's KV cache holds for one token in all layers.
        window_layers: layers whose cache keeps a sliding window only.
        state_layers: layers that keep a state and nothing per token.
        state_bytes_per_sequence: what those layers keep for one sequence.
    """

    started: bool
    reason: str = ""
    model_class: str = ""
    fallback: bool = False
    attention_backends: tuple[str, ...] = ()
    weights_bytes: int = 0
    kv_bytes_per_token: int = 0
    window_layers: int = 0
    state_layers: int = 0
    state_bytes_per_sequence: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class StartResults:
    """Every start of one engine version on one kind of device."""

    engine_version: str
    device: str
    architectures: Mapping[str, Start]

    def of(self, entry: CatalogEntry) -> Start | None:
        """Return the start of a catalog model's architecture; None if it was not tried."""
        return self.architectures.get(start_key(entry.architecture, form_of(entry)))


def form_of(entry: CatalogEntry) -> str:
    """Return the form's name, as "int4-awq"; empty for the model itself."""
    return entry.name.removeprefix(f"{entry.form_of}-") if entry.form_of else ""


def start_key(architecture: Architecture, form: str = "") -> str:
    """Return the key of the start that models of one family, attention and quantised form have in
    common.
    """
    return " / ".join(filter(None, (architecture.family, architecture.attention, form)))


def tiny_configs() -> dict[str, dict[str, Any]]:
    """Return a tiny config of every architecture that can be counted, by its key."""
    found: dict[str, dict[str, Any]] = {}
    for entry in (*CATALOG.values(), *QUANTISED.values()):
        key = start_key(entry.architecture, form_of(entry))
        if key not in found:
            found[key] = shrunk(entry.config)
    for config in other_families():
        found.setdefault(start_key(architecture_from_config(config)), config)
    return found


def other_families() -> list[dict[str, Any]]:
    """Tiny configs of architectures that no catalog model has."""
    text = resources.files("partitiond.models").joinpath("other_families.json").read_text("utf-8")
    configs: list[dict[str, Any]] = json.loads(text)
    return configs


@functools.cache
def load_starts() -> StartResults:
    """Load the starts that are shipped."""
    text = resources.files("partitiond.models").joinpath("started.json").read_text("utf-8")
    return starts_from_json(text)


def starts_from_json(text: str) -> StartResults:
    """Read what `starts_to_json` wrote."""
    data = json.loads(text)
    return StartResults(
        engine_version=data["engine_version"],
        device=data["device"],
        architectures={key: _start(value) for key, value in data["architectures"].items()},
    )


def _start(value: Mapping[str, Any]) -> Start:
    return Start(**{**value, "attention_backends": tuple(value.get("attention_backends", ()))})


def starts_to_json(starts: StartResults) -> str:
    """Write as text, with sorted keys; fields with their default are left out."""
    plain = Start(started=True)
    architectures = {
        key: {
            field.name: getattr(start, field.name)
            for field in dataclasses.fields(Start)
            if field.name == "started" or getattr(start, field.name) != getattr(plain, field.name)
        }
        for key, start in sorted(starts.architectures.items())
    }
    data = {
        "engine_version": starts.engine_version,
        "device": starts.device,
        "architectures": architectures,
    }
    return json.dumps(data, indent=1) + "\n"
