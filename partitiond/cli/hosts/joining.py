"""Implements `partitiond host join`: this host obeys the head of another."""

from pathlib import Path
from typing import Annotated

import typer

from partitiond.cli.options import option, settings_of, spread, without_none
from partitiond.cli.output import say
from partitiond.core.errors import InputError, SettingsError
from partitiond.settings.schema import Settings

HeadArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="HEAD",
        help="Address of the head, as gpu-head:6380; if left out, that of the settings.",
    ),
]


@spread
def join(
    ctx: typer.Context,
    head: HeadArgument = None,
    *,
    bundle: Path | None = option(
        "What `host certificate --for` made on the head for this host: token, certificate, name.",
        "--from",
        metavar="BUNDLE",
        show_default=False,
    ),
    token_file: Path | None = option(
        "File of the cluster's token, as copied from the head.", show_default=False
    ),
    name: str | None = option("Name of this host in the fleet.", show_default=False),
    address: str | None = option(
        "Address at which the other hosts reach this one.", show_default=False
    ),
) -> None:
    """Run this host's agent in the foreground: it does what the head decides.

    Ends on Ctrl-C or SIGTERM; engines and endpoint of this host go on, and the next agent finds
    them. `partitiond down` ends them. A host with a plan of its own is refused. A bundle is
    needed once, and after its certificate was renewed: its contents stay in the state folder.
    """
    if bundle is not None:
        name = _take(settings_of(ctx), bundle, name)
    given = {
        "cluster.head": head,
        "cluster.token_path": str(token_file.expanduser().absolute()) if token_file else None,
        "host.name": name,
        "cluster.address": address,
    }
    settings = settings_of(ctx, without_none(given))
    if not settings.cluster.joined:
        raise SettingsError(
            "no head is named that this host is to join.",
            hint="Name it, as `partitiond host join gpu-head:6380`, or set [cluster] head.",
        )
    say(f"partitiond: the host {settings.host.own_name}, state in {settings.state_dir}")
    from partitiond.cluster.of_settings import prepare_cluster
    from partitiond.hosts.agent_process import run_agent  # takes a second: settings come first

    obeys = f"ready: obeys the head {settings.cluster.head}"
    run_agent(settings, prepare_cluster, lambda: say(obeys))


def _take(settings: Settings, bundle: Path, name: str | None) -> str:
    """Put a bundle's contents where the settings say, and return the host's name in it."""
    from partitiond.cluster.bundle import read_bundle, unpack_bundle

    named = read_bundle(bundle).host
    if name not in (None, named):
        raise InputError(
            f"{bundle} is for the host {named}, and not for {name}.",
            hint="Leave --name out, or have a bundle made for that name on the head.",
            facts={"bundle": str(bundle), "host": named},
        )
    token, tls = settings.cluster_token_path, settings.cluster_tls_dir
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return unpack_bundle(bundle, token_path=token, tls_dir=tls)
