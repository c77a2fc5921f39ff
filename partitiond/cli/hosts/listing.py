"""Implements `partitiond hosts`: lists hosts, forgets lost ones, makes them obey this head."""

import collections
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from partitiond.cli.columns import Column, table_of
from partitiond.cli.ids import possible_id
from partitiond.cli.options import JsonOption, client_of, option, settings_of, spread
from partitiond.cli.output import emit, tell
from partitiond.core.errors import InputError
from partitiond.core.hardware.host_state import HostState, HostView, unreached_endpoints
from partitiond.core.units import format_duration

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings

HOST_STYLES: Final = {
    HostState.FINE: "green",
    HostState.LATE: "yellow",
    HostState.SILENT: "yellow",
    HostState.LOST: "red",
    HostState.REFUSED: "red",
}


@spread
def list_hosts(
    ctx: typer.Context,
    *,
    forget: str | None = option(
        "Count this lost host as no part of the fleet any more; if it comes back, it joins anew.",
        metavar="NAME",
    ),
    take_over: bool = option(
        "Make this control plane the one that hosts obey, instead of any other; it must be stopped."
    ),
    as_json: JsonOption = False,
) -> None:
    """List the hosts of the fleet, forget one, or make them obey this head.

    Whether they answer, versions, clocks; below the table, why a host is not fine, and what to do.
    A host that answers, or has been silent for less than host.lost_seconds, is not forgotten.

    --take-over is for a head that is restored from a backup, on this machine or another: hosts that
    obeyed the former one obey this one, which adopts what runs; all refuse the former one.
    """
    if take_over:
        if forget is not None:
            raise InputError("--take-over stands alone.", hint="Leave --forget out.")
        _take_over(settings_of(ctx), as_json=as_json)
        return
    with client_of(ctx) as client:
        if forget is not None:
            client.forget_host(possible_id("host", "--forget", forget))
            tell({"forgotten": forget}, f"Host {forget} is forgotten.", as_json=as_json)
            return
        hosts = client.hosts()
        replicas = [] if as_json else client.replicas()
    counts = collections.Counter(replica.host for replica in replicas if replica.pid is not None)
    emit(hosts, as_json=as_json, render=lambda: hosts_table(hosts, counts))


def _take_over(settings: "Settings", *, as_json: bool) -> None:
    from partitiond.hosts.head import take_over
    from partitiond.hosts.one_master import refuse_joined
    from partitiond.platform.clock import SystemClock
    from partitiond.store import open_store
    from partitiond.store.lock import StateLock

    with StateLock.acquire(settings.lock_path):
        refuse_joined(settings)
        store = open_store(settings.store_path)
        try:
            record = take_over(store, SystemClock().utc_iso())
        finally:
            store.close()
    words = (
        f"This control plane is the head of epoch {record.epoch}; hosts obey it and none of a "
        "lower epoch. Start it: `systemctl start partitiond`, or `partitiond serve --cluster`."
    )
    tell({"head": record.id, "epoch": record.epoch}, words, as_json=as_json)


def hosts_table(hosts: Sequence[HostView], replicas: Mapping[str, int]) -> RenderableType:
    """Hosts; below the table, why those are not fine that are not, and endpoints that do not reach
    each other.

    Args:
        hosts: all of them.
        replicas: number of engines that run, by name of the host.
    """
    table = table_of(
        hosts,
        Column("host", lambda h: h.name, whole=True),
        Column("state", state_of),
        Column("address", lambda h: h.address or "-"),
        Column(">GPUs", lambda h: str(h.gpus)),
        Column(">replicas", lambda h: str(replicas.get(h.name, 0))),
        Column("partitiond", lambda h: h.partitiond_version or "-"),
        Column("engine", lambda h: h.engine_version or "-"),
        Column("Ray", lambda h: h.ray_version or "-"),
        Column(">clock", clock_words),
        Column(">last word", last_word),
    )
    notes = [Text(h.note) for h in hosts if h.note]
    notes += [Text(said) for said in unreached_endpoints(hosts)]
    return Group(table, *notes) if notes else table


def hosts_words(hosts: Sequence[HostView]) -> str:
    """The number of hosts, and those that are not fine with the reason."""
    odd = [f"{h.name} is {h.state.value}" for h in hosts if h.state is not HostState.FINE]
    return f"{len(hosts)}; {', '.join(odd)} (see `partitiond hosts`)" if odd else str(len(hosts))


def state_of(host: HostView) -> Text:
    """The state in its colour; the control plane's host is marked."""
    word = f"{host.state.value}, head" if host.is_head else host.state.value
    return Text(word, style=HOST_STYLES[host.state])


def clock_words(host: HostView) -> str:
    """How far its clock is ahead of the head's, or behind; a dash if that is not known."""
    offset = host.clock_offset_seconds
    if host.is_head or offset is None:
        return "-"
    return f"{offset * 1000:+.0f} ms" if abs(offset) < 1 else f"{offset:+.1f} s"


def last_word(host: HostView) -> str:
    """How long ago it answered last."""
    if not host.last_word:
        return "never"
    return "now" if not host.silent_seconds else f"{format_duration(host.silent_seconds)} ago"
