"""Implements `partitiond host certificate`: shows, makes and renews the certificates of hosts."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from partitiond.cli.hosts.place import settings_of_place
from partitiond.cli.options import JsonOption, option, spread
from partitiond.cli.output import print_json, say
from partitiond.core.errors import InputError

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings


@spread
def certificate(
    ctx: typer.Context,
    *,
    host: str | None = option(
        "Make the bundle with which this host joins; on the head.", "--for", metavar="NAME"
    ),
    address: list[str] | None = option(
        "Address at which the other hosts reach that host; repeatable."
    ),
    out: Path | None = option("Folder of the bundle; default: this one.", metavar="DIR"),
    make: bool = option("Make or renew this host's own; on the head."),
    as_json: JsonOption = False,
) -> None:
    """Show this host's certificate, or make one for a host that is to join.

    A bundle has the fleet's token, and whoever reads it can run programs on every host: copy it
    with scp, and remove it then. Ray reads a new certificate when it starts.
    """
    given = (host is None, make, bool(address), out is not None)
    if given not in {(True, False, False, False), (True, True, False, False),
                     (True, True, True, False), (False, False, True, False),
                     (False, False, True, True)}:  # fmt: skip
        raise InputError(
            "these options do not go together.",
            hint="Write --for NAME --address ADDRESS [--out DIR], or --make [--address ADDRESS], "
            "or none of them.",
        )
    if host is None:
        _own(settings_of_place(ctx), address or [], make=make, as_json=as_json)
        return
    from partitiond.cluster.own_files import make_bundle

    addresses = address or []
    path = make_bundle(settings_of_place(ctx), host, addresses, out or Path(), datetime.now(UTC))
    if as_json:
        print_json({"host": host, "addresses": addresses, "bundle": str(path)})
        return
    say(f"{path}: token, certificate and key of {host}. It opens every host: keep it secret.")
    say(f"  scp -p {path} {addresses[0]}:        # then remove it here")
    say(f"On {host}: `partitiond setup --join HEAD --from {path.name} --apply`.")


def _own(settings: "Settings", addresses: list[str], *, make: bool, as_json: bool) -> None:
    """Show this host's certificate, which is made before if it is asked for."""
    from partitiond.cluster.certificates import check_files, days_left
    from partitiond.cluster.own_files import ensure_own_files

    now, folder = datetime.now(UTC), settings.cluster_tls_dir
    if make:
        ensure_own_files(settings, now, addresses=addresses, renew=True)
    check_files(folder, ())
    left = days_left(folder, now)
    if as_json:
        print_json({"folder": str(folder), "made": make, "days_left": left})
        return
    say(f"{folder}: {'made' if make else 'good'}, {left:.0f} days left.")
    if make:
        say(
            "Ray reads it when it starts: `systemctl restart partitiond-ray`, which ends no engine."
        )
