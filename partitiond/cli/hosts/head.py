"""Implements `partitiond host take-over`: makes this control plane the one that hosts obey."""

import typer

from partitiond.cli.options import JsonOption, settings_of
from partitiond.cli.output import print_json, say


def take_over(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Make this control plane the one that hosts obey, instead of any other.

    For a head that is restored from a backup, on this machine or another: hosts that obeyed the
    former one obey this one, which adopts what runs, and the former one is refused by all of them.
    The daemon must be stopped.
    """
    from partitiond.hosts.head import take_over as take_hosts
    from partitiond.hosts.one_master import refuse_joined
    from partitiond.platform.clock import SystemClock
    from partitiond.store import open_store
    from partitiond.store.lock import StateLock

    settings = settings_of(ctx)
    with StateLock.acquire(settings.lock_path):
        refuse_joined(settings)
        store = open_store(settings.store_path)
        try:
            record = take_hosts(store, SystemClock().utc_iso())
        finally:
            store.close()
    if as_json:
        print_json({"head": record.id, "epoch": record.epoch})
        return
    say(
        f"This control plane is the head of epoch {record.epoch}; hosts obey it and none of a "
        "lower epoch."
    )
    say("Start it: `systemctl start partitiond`, or `partitiond serve --cluster`.")
