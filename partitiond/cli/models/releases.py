"""Implements `partitiond models history` and `rollback`: lists releases and goes back to one."""

from typing import Annotated

import typer

from partitiond.cli.columns import new_table
from partitiond.cli.ids import ModelArgument
from partitiond.cli.options import JsonOption, NoWaitOption, client_of
from partitiond.cli.output import emit, err, tell
from partitiond.cli.waiting import wait_for_change

VersionArgument = Annotated[
    int | None,
    typer.Argument(metavar="[VERSION]", help="Of the release; by default the one before."),
]


def history(ctx: typer.Context, name: ModelArgument, as_json: JsonOption = False) -> None:
    """List the releases of a model, and what became of them.

    A release is what engines are made of: source, revision and engine options.
    """
    with client_of(ctx) as client:
        releases = client.releases(name)
    table = new_table(">version", "state", "since", "source", "engine")
    for release in releases:
        spec = release.spec
        source = f"{spec.source.kind.value} {spec.source.ref} {spec.source.revision or ''}"
        engine = " ".join((spec.engine.dtype, spec.engine.quantization, *spec.engine.extra_args))
        table.add_row(
            str(release.version),
            release.state.value,
            release.at,
            source.strip(),
            " ".join(engine.split()),
        )
    emit(releases, as_json=as_json, render=lambda: table)


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
