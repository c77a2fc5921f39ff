"""Implements `partitiond models catalog`: lists the models known by name, without a daemon."""

from typing import Annotated, Final

import typer
from rich.console import RenderableType

from partitiond.cli.columns import Column, fields, table_of
from partitiond.cli.options import JsonOption, option, spread
from partitiond.cli.output import emit, out, say
from partitiond.core.errors import NotFoundError
from partitiond.core.units import format_bytes
from partitiond.models.catalog import CATALOG, entry_named, nearest
from partitiond.models.listing import CatalogRow, count_text, row_of, rows

_WIDE: Final = 110
"""The table shows all of its columns on a terminal of at least this width."""


@spread
def catalog(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this model in full.")
    ] = None,
    *,
    find: str | None = option("Only models with this text in their name.", metavar="TEXT"),
    as_json: JsonOption = False,
) -> None:
    """List the models that are known by name, or show one.

    Needs no daemon. Weights are in bfloat16; KV is what the cache holds of one token in all
    layers.
    """
    if name is not None:
        row = _row_named(name)
        emit(row, as_json=as_json, render=lambda: _record(row))
        return
    found = [row for row in rows() if find is None or find.lower() in row.name]
    if found or as_json:
        emit(found, as_json=as_json, render=lambda: _table(found, out().width))
    if as_json:
        return
    if find is not None and not found:
        say(f"No name in the catalog has {find!r} in it.")
    for row in found:
        if row.note:
            out().print(f"{row.name}: {row.note}", markup=False)
    say("Any other model works by its hub id or folder: partitiond models add ORG/NAME")


def _row_named(name: str) -> CatalogRow:
    entry = entry_named(name)
    if entry is None:
        raise NotFoundError(
            f"the catalog has no model {name!r}.",
            hint=f"{nearest(name)}See partitiond models catalog; any hub id or folder works, too.",
            facts={"model": name},
        )
    return row_of(CATALOG[entry.form_of or entry.name])


def _table(rows: list[CatalogRow], width: int) -> RenderableType:
    """Return the table; a narrow one leaves out the licence and shortens the attention."""
    wide = width >= _WIDE
    return table_of(
        rows,
        Column("name", lambda r: r.name, whole=True),
        Column(">parameters", _parameters, whole=True),
        Column(">weights", lambda r: format_bytes(r.weights_bytes), whole=True),
        Column(">KV/token", lambda r: format_bytes(r.kv_bytes_per_token), whole=True),
        Column(
            "attention",
            lambda r: r.attention if wide else r.attention.partition(" ")[0].rstrip(","),
            whole=True,
        ),
        Column("licence", lambda r: r.licence + (" (gated)" if r.gated else ""), shown=wide),
    )


def _parameters(row: CatalogRow) -> str:
    """The number of parameters; in parentheses those that each token uses, if they are fewer."""
    active = row.active_parameters
    through = f" ({count_text(active)})" if active < row.parameters else ""
    return count_text(row.parameters) + through


def _record(row: CatalogRow) -> RenderableType:
    active = row.active_parameters
    through = f", {active:,} of them for each token" if active < row.parameters else ""
    window = (
        f", {row.window_layers} of {row.layers} layers see {row.window_tokens} tokens"
        if row.window_layers
        else ""
    )
    hub = f"{row.hub_id} {row.revision or '(newest)'}"
    rows = (
        ("name", row.name),
        ("for", row.purpose),
        ("hub", hub + (", gated" if row.gated else "")),
        ("package", row.package or "none"),
        ("licence", row.licence),
        ("family", row.family),
        ("parameters", f"{row.parameters:,}{through}"),
        ("weights", f"{format_bytes(row.weights_bytes)} in bfloat16"),
        ("KV cache", f"{row.kv_bytes_per_token:,} bytes per token in 16 bits"),
        ("attention", f"{row.attention}{window}"),
        ("context", f"{row.max_position} tokens"),
        ("parsers", ", ".join(f"{name} {value}" for name, value in row.parsers.items())),
        ("note", row.note),
    )
    forms = [
        (form.name, f"{form.hub_id}, {format_bytes(form.weights_bytes)}") for form in row.quantised
    ]
    return fields([*((field, value) for field, value in rows if value), *forms])
