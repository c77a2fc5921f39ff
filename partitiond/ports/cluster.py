"""Defines what a control plane needs of a cluster: who is there, and a line to each.

A cluster carries messages and says which hosts are its members. It starts no engine, and what it
says of a member is not relied on: a host is silent if it does not answer, whatever the cluster
says.
"""

import dataclasses
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol

from partitiond.core.hardware.host_state import HostView


async def _nothing() -> None:
    """Keep nothing running."""


class Carrier(Protocol):
    """Moves a message to a host and its answer back. Raises HostSilentError if it cannot."""

    async def call(self, body: bytes) -> bytes:
        """Return the answer."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterMember:
    """A host in the cluster, as the cluster sees it.

    Attributes:
        host: its name, as it joined.
        address: at which the others reach it.
        problem: why it cannot be reached now; empty if it can, as far as the cluster knows.
    """

    host: str
    address: str
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class HostPlace:
    """What a host has of its cluster, once its part of it was prepared.

    Attributes:
        ray_version: of Ray there; empty without Ray.
        peers_address: where its proxy serves those of other hosts (see `AgentFacts`).
        peers_tls: folder of the certificates with which proxies of hosts know each other; empty
            where `peers_address` is a path or nowhere.
        keep: keeps its part running until it is cancelled; ends where nothing is to be kept.
    """

    ray_version: str = ""
    peers_address: str = ""
    peers_tls: str = ""
    keep: Callable[[], Coroutine[None, None, None]] = dataclasses.field(
        default=_nothing, compare=False
    )


class Cluster(Protocol):
    """The hosts that joined this one."""

    async def members(self) -> Sequence[ClusterMember]:
        """Return the hosts in the cluster; this one, too.

        Raises:
            SilentError: the cluster cannot be asked now; its hosts may answer nevertheless.
        """
        ...

    def line(self, host: str) -> Carrier:
        """Return the line to a host, whether it is there now or not. Returns at once."""
        ...


class FleetHosts(Protocol):
    """The hosts of the fleet; with one host, that one."""

    def views(self) -> Sequence[HostView]:
        """Return all hosts, the head's first, then by name. Returns at once."""
        ...

    def forget(self, name: str) -> None:
        """Count a lost host as no part of the fleet any more.

        Raises:
            NotFoundError: there is no such host.
            ConflictError: it answers, is only silent, or is the head's own.
        """
        ...
