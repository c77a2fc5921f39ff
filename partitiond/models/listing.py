"""Lists the catalog as rows, for the command line, its JSON and the reference page."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from partitiond.models.catalog import CATALOG, CatalogEntry


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """A repository of quantised weights of a model."""

    name: str
    hub_id: str
    revision: str | None
    weights_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class CatalogRow:
    """A model of the catalog with what follows from its config.

    Attributes:
        name, hub_id, revision, package, licence, gated, purpose, parsers: as in the catalog.
        family: `model_type` of its config.
        parameters: number of all weights.
        active_parameters: number of the weights that one token passes through.
        weights_bytes: in bfloat16.
        kv_bytes_per_token: with a 16-bit KV cache, within every window.
        attention: kind of attention.
        layers, window_layers, window_tokens, stateless_layers: as in `Architecture`.
        max_position: longest context in tokens.
        note: what users should know before using it; empty if nothing.
        quantised: quantised forms of the model.
    """

    name: str
    hub_id: str
    revision: str | None
    package: str | None
    licence: str
    gated: bool
    purpose: str
    parsers: Mapping[str, str]
    family: str
    parameters: int
    active_parameters: int
    weights_bytes: int
    kv_bytes_per_token: int
    attention: str
    layers: int
    window_layers: int
    window_tokens: int
    stateless_layers: int
    max_position: int
    note: str
    quantised: tuple[Form, ...]


def rows() -> tuple[CatalogRow, ...]:
    """Return every model of the catalog, in its order."""
    return tuple(row_of(entry) for entry in CATALOG.values())


def row_of(entry: CatalogEntry) -> CatalogRow:
    """Return a model with what follows from its config."""
    architecture = entry.architecture
    told: dict[str, Any] = {"active_parameters": architecture.parameters_per_token}
    told["quantised"] = tuple(
        Form(name, form.hub_id, form.revision, form.architecture.weights_bytes)
        for name, form in entry.quantised.items()
    )
    for name in {field.name for field in dataclasses.fields(CatalogRow)} - told.keys():
        told[name] = getattr(architecture if hasattr(architecture, name) else entry, name)
    return CatalogRow(**told)


def count_text(count: int) -> str:
    """Return a number of parameters with three digits: 135M, 1.24B."""
    if count >= 10**9:
        return f"{count / 1e9:.3g}B"
    return f"{count / 1e6:.3g}M" if count < 999_500_000 else f"{count / 1e9:.3g}B"
