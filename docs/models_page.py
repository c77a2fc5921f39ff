"""The reference page of models: what `docs/generate.py` puts on `reference/models.md`."""

import re
from collections.abc import Callable, Iterator

from partitiond.core.model.families import FAMILIES as KNOWN
from partitiond.core.model.families.quantised import SUPPORTED
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
    "Parameters are counted matrix by matrix from the config. Weights are in bfloat16 (2 bytes); "
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


def blocks(table: Table, listing: Listing) -> Iterator[str]:
    """The page's blocks."""
    listed = rows()
    yield INTRODUCTION
    yield FIGURES
    yield table(
        ("model", "on the hub", "parameters", "weights, GB", "KV per token, kB", "attention",
         "context", "licence", "what for"),
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
        f"{row.weights_bytes / 1e9:.2f}",
        f"{row.kv_bytes_per_token / 1000:.1f}",
        row.attention + window,
        str(row.max_position),
        row.licence + (", gated" if row.gated else ""),
        row.purpose,
    )
