"""The reference page of models: what `docs/generate.py` puts on `reference/models.md`."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.lookup import find_hardware
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.families import FAMILIES as KNOWN
from partitiond.core.model.families import architecture_from_config
from partitiond.core.model.families.quantised import SUPPORTED
from partitiond.core.model.recognised import recognised
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.performance.estimate_report import estimate_report
from partitiond.core.units import GIB
from partitiond.models.listing import CatalogRow, count_text, rows

Table = Callable[[tuple[str, ...], Iterator[tuple[str, ...]]], str]
Listing = Callable[[Iterator[tuple[str, str]]], str]

INTRODUCTION = (
    "The catalog carries the full config of each model, so that an estimate, a plan and a run with "
    "dummy weights need neither the hub nor an account. `partitiond models catalog --json` gives "
    "everything on this page. Any other model of [these families](#families) works by its hub "
    "id or folder."
)
FIGURES = (
    "Parameters are counted matrix by matrix from the config, 2 bytes each (bfloat16); "
    "KV per token is what a 16-bit cache holds of one token in "
    "all layers while it is within every sliding window. MHA keeps keys and values of every head, "
    "GQA of groups of heads, MQA of one, MLA one compressed latent."
)
PARSERS = (
    "Engines get the model's parser as `--tool-call-parser` (with `--enable-auto-tool-choice`) "
    "unless its `extra_args` have it; not with dummy weights. `--reasoning-parser` is yours to "
    "give: completions lose constraints:"
)
QUANTISED = (
    "Quantised weights, as `MODEL-FORM` where a model is asked for; `partitiond models catalog "
    "MODEL` tells their repositories and their bytes, scales and zero points included. Whether the "
    "answers are good enough is yours to decide."
)
FAMILIES = (
    "Values of `model_type` in a `config.json` whose models can be counted. Of a multimodal model "
    "the text decoder counts, and room for its towers. Quantised weights by `quantization_config`: "
    "{methods}. Another method is refused, another family bounded by its files."
)

RECENT = (
    "What `partitiond tools estimate` says of configurations that were published lately: the "
    "footprint on an `{gpu}` of an engine for one request at a time, or why there is none."
)
GPU: Final = find_hardware("h100-80gb")[0]
PUBLISHED: Final = Path(__file__).parent.parent / "tests/core/model/families/recent.json"


def blocks(table: Table, listing: Listing) -> Iterator[str]:
    """The page's blocks."""
    listed = rows()
    yield INTRODUCTION
    yield FIGURES
    yield table(
        ("model", "on the hub", "parameters", "KV per token, kB", "attention", "context",
         "licence", "what for"),
        (_model(row) for row in listed),
    )  # fmt: skip
    notes: dict[str, list[str]] = {}
    for row in listed:
        notes.setdefault(row.note, []).append(f"`{row.name}`")
    yield listing((", ".join(names), note) for note, names in notes.items() if note)
    yield PARSERS
    parsed: dict[str, dict[str, None]] = {}
    for row in listed:
        for kind, parser in row.parsers.items():
            family = re.sub(r"-[\d.]+[bm]\b.*", "-*", row.name)
            parsed.setdefault(f"{kind} {parser}", {})[f"`{family}`"] = None
    yield listing((parser, ", ".join(families) + ".") for parser, families in parsed.items())
    yield "## Quantised forms"
    yield QUANTISED
    yield ", ".join(f"`{row.name}-{form.name}`" for row in listed for form in row.quantised) + "."
    yield "## Families"
    yield FAMILIES.format(methods=", ".join(SUPPORTED))
    yield ", ".join(f"`{family}`" for family in KNOWN) + "."
    yield RECENT.format(gpu=GPU.key)
    yield table(("published lately", "family", "parameters", "GiB"), _recent())


def _recent() -> Iterator[tuple[str, ...]]:
    """What `tools estimate` says of each configuration; those that are refused together."""
    refused: dict[str, str] = {}
    words = ""
    for name, row in json.loads(PUBLISHED.read_text("utf-8")).items():
        config: dict[str, Any] = row["config"]
        family = str(config["model_type"])
        try:
            found = architecture_from_config(config)
        except SpecError as error:
            refused[name] = f"`{family}`"
            words = error.message.replace(repr(family), "...")
            continue
        asked = ModelSpec("model", ModelSource(SourceKind.CONFIG, "model"))
        whole = PartitionSize(SharingMode.WHOLE, 1, 100)
        report = estimate_report(recognised(asked, {"": found}), found, GPU, whole)
        least = report.points[0].footprint_bytes if report.points else report.footprint.peak_bytes
        needs = f"{least / GIB:.1f}" if report.points else f"{least / GIB:.0f}, does not fit"
        yield name, f"`{family}`", count_text(found.parameters), needs
    yield ", ".join(refused), ", ".join(refused.values()), "", words


def _model(row: CatalogRow) -> tuple[str, ...]:
    active = row.active_parameters
    each = f", {count_text(active)} per token" if active < row.parameters else ""
    window = ""
    if row.window_layers:
        window = f" ({row.window_layers} of {row.layers} layers, {row.window_tokens} tokens)"
    if 0 < row.stateless_layers < row.layers:
        window = f" ({row.stateless_layers} of {row.layers} layers keep no KV)"
    return (
        f"`{row.name}`",
        row.hub_id + (f" (or package {row.package})" if row.package else ""),
        count_text(row.parameters) + each,
        f"{row.kv_bytes_per_token / 1000:.1f}",
        row.attention + window,
        str(row.max_position),
        row.licence + (", gated" if row.gated else ""),
        row.purpose,
    )
