"""Draws the releases of a model, and implements `partitiond models rollback`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import RenderableType

from partitiond.cli.columns import Column, table_of, time_text
from partitiond.cli.ids import ModelArgument
from partitiond.cli.options import JsonOption, NoWaitOption, client_of
from partitiond.cli.output import err, tell
from partitiond.cli.waiting import wait_for_change
from partitiond.core.model.spec import EngineOptions, ModelSource
from partitiond.core.replica.releases import Release

VersionArgument = Annotated[
    int | None,
    typer.Argument(metavar="[VERSION]", help="Of the release; by default the one before."),
]


def releases_table(releases: Sequence[Release]) -> RenderableType:
    """Draw the releases of a model, newest first, and what became of them."""
    return table_of(
        releases,
        Column(">version", lambda r: str(r.version)),
        Column("state", lambda r: r.state.value),
        Column("since", lambda r: time_text(r.at)),
        Column("source", lambda r: _source(r.spec.source)),
        Column("engine", lambda r: _chosen(r.spec.engine)),
    )


def _source(source: ModelSource) -> str:
    return f"{source.kind.value} {source.ref} {source.revision or ''}".strip()


def _chosen(engine: EngineOptions) -> str:
    """Return for people what was chosen about the engine, by which releases differ."""
    given = {f.name: (getattr(engine, f.name), f.default) for f in dataclasses.fields(engine)}
    del given["dtype"], given["extra_args"]
    other = [f"{name}={value}" for name, (value, default) in given.items() if value != default]
    return " ".join((engine.dtype, *other, *engine.extra_args))


def rollback(
    ctx: typer.Context,
    name: ModelArgument,
    version: VersionArgument = None,
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go back to an earlier release of a model.

    Waits until it serves.

    Its engines take the place of those that run. Demand, SLO, rules, names and limits stay what
    they are.
    """
    with client_of(ctx) as client:
        before = client.convergence()
        release = client.roll_back(name, version)
        tell(release, f"{name} goes back to version {release.version}.", as_json=as_json)
        if not no_wait:
            wait_for_change(client, before, err())
