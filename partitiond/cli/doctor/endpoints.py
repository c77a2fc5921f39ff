"""Checks that the endpoints of several hosts reach each other: the port, and who reaches whom.

The facts are gathered with deadlines; what follows from them is pure.
"""

import dataclasses
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from partitiond.cli.doctor.cluster import (
    ANSWERING,
    WayToHead,
    hosts_told,
    not_answering,
)
from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.cli.setup.cluster_units import as_installed
from partitiond.cli.setup.host import SetupHost
from partitiond.cluster.own_files import own_address
from partitiond.core.errors import SettingsError
from partitiond.core.hardware.host_state import HostView

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings

CHECK: Final = "cluster endpoints"


@dataclasses.dataclass(frozen=True, slots=True)
class EndpointFacts:
    """What the findings follow from.

    Attributes:
        address: where this host's endpoint serves those of other hosts, host:port; empty if it has
            no such address.
        problem: why nothing can listen there; empty if something can, or the endpoint does.
        closed: further such addresses at which nothing answered: on the head, of hosts that do not
            answer; elsewhere, of the head.
    """

    address: str
    problem: str = ""
    closed: tuple[WayToHead, ...] = ()


def check_endpoints(facts: EndpointFacts) -> list[DoctorFinding]:
    """Return all findings. Pure."""
    found = []
    if facts.problem:
        found.append(
            fail(
                CHECK,
                f"the endpoint cannot serve those of other hosts at {facts.address}: "
                f"{facts.problem}",
                "stop what uses the port, or choose another: --set proxy.peers_port=PORT",
            )
        )
    if facts.closed:
        named = ", ".join(f"{way.address} ({way.problem})" for way in facts.closed)
        found.append(
            warn(
                CHECK,
                f"no endpoint answers at {named}",
                "see that partitiond runs there, and open proxy.peers_port between the hosts, in "
                "both directions",
                "systemctl status partitiond",
            )
        )
    return found or [ok(CHECK, f"{facts.address}, for those of other hosts")]


def peers_to_try(hosts: Sequence[HostView], head: str, port: int) -> list[str]:
    """Return where endpoints of other hosts should answer that nobody else tells of, as host:port.

    Args:
        hosts: of the fleet, as the head knows them.
        head: address of the head that this host obeys; empty on the head.
        port: this host's own; the head's is taken to be the same.
    """
    if head:
        return [f"{head.rpartition(':')[0]}:{port}"]
    return [
        host.peers_address
        for host in hosts
        if host.peers_address and not host.is_head and host.state not in ANSWERING
    ]


def bind_problem(host: str, port: int) -> str:
    """Return why nothing can listen on a port; empty if something can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def examine_endpoints(
    settings: "Settings", host: SetupHost, *, daemon_runs: bool
) -> list[DoctorFinding]:
    """Check this host's endpoint among those of several; nothing where there is one."""
    settings = as_installed(settings, host)
    cluster, port = settings.cluster, settings.proxy.peers_port
    if not (cluster.enabled or cluster.joined) or cluster.folder is not None:
        return []
    try:
        address = own_address(settings)
    except SettingsError as error:
        return check_endpoints(EndpointFacts("an address of this host", error.message.rstrip(".")))
    hosts = hosts_told(settings) if cluster.enabled else ()
    return check_endpoints(
        EndpointFacts(
            f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
            "" if daemon_runs else bind_problem(address, port),
            closed=not_answering(peers_to_try(hosts, cluster.head, port)),
        )
    )
