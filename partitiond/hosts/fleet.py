"""Wires the control plane of several hosts: the own host's agent, and those of the members."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from partitiond.core.hardware.host_state import HostLimits
from partitiond.hosts.calls.fencing import HeadSession
from partitiond.hosts.calls.messages import AgentAnswer, Message
from partitiond.hosts.calls.signatures import message_kinds
from partitiond.hosts.membership import Membership
from partitiond.hosts.this_host import ThisHost
from partitiond.hosts.together import Hosts
from partitiond.platform.background import Background
from partitiond.platform.clock import SystemClock
from partitiond.ports.cluster import Cluster
from partitiond.serde import prepare
from partitiond.settings.schema import Settings
from partitiond.store import Store


@contextlib.asynccontextmanager
async def hosts_of_fleet(
    settings: Settings, store: Store, here: ThisHost, cluster: Cluster, head: HeadSession
) -> AsyncIterator[Membership]:
    """Follow the members of the cluster as long as the context lasts.

    Args:
        here: the own host's agent.
        head: on whose behalf calls are made.
    """
    clock, host = SystemClock(), settings.host
    limits = HostLimits(host.silent_seconds, host.lost_seconds)
    hosts = Hosts([here], limits=limits, clock=clock, store=store)
    membership = Membership(
        hosts,
        cluster,
        store,
        clock,
        head=head,
        silent_seconds=host.silent_seconds,
    )
    # In a thread: the first message to a host would have it done by the event loop.
    await asyncio.to_thread(prepare, (Message, AgentAnswer, *message_kinds()))
    watching = Background([membership.watch, here.place.keep])
    watching.start()
    try:
        yield membership
    finally:
        await watching.stop()
        await membership.close()
