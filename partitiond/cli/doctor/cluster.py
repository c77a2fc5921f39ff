"""Checks what one host of several needs: Ray, the token, the way to the head, the peers' port.

The facts are gathered with deadlines; what follows from them is pure. Clocks and versions of hosts
stand in `partitiond hosts`.
"""

import concurrent.futures
import dataclasses
import os
import platform
import socket
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from partitiond import __version__
from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.cli.doctor.ports import bind_problem
from partitiond.cli.options import connected
from partitiond.cli.setup.cluster_units import as_installed
from partitiond.cli.setup.host import SetupHost
from partitiond.cluster.of_settings import ray_of
from partitiond.cluster.own_files import own_address
from partitiond.cluster.ray_environment import RayEnvironment
from partitiond.cluster.ray_node import ports_of
from partitiond.core.errors import PartitiondError, SettingsError
from partitiond.core.hardware.host_state import HostState, HostView

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings

CONNECT_SECONDS: Final = 3.0
"""Deadline of one connection to the head. Chosen: a host farther away is of no use in a fleet."""
SLOW_SECONDS: Final = 0.02
"""Time to connect above which each step of a start or a drain is felt. Chosen: hosts of one site
take less than 1 ms."""
RAYLET_PORTS: Final = ("node-manager-port", "object-manager-port")
"""Those of Ray's fixed ports at which something listens on each host all the time."""
ANSWERING: Final = frozenset({HostState.FINE, HostState.REFUSED})
"""States of hosts that are reached."""
REACH_MOST: Final = 32
"""Addresses that are tried, 8 at a time. Chosen: a dozen seconds at most, and enough to see why."""
PEERS: Final = "cluster endpoints"


@dataclasses.dataclass(frozen=True, slots=True)
class TokenFile:
    """The file of the token that all hosts share.

    Attributes:
        mode: permission bits; None if there is no such file.
        size_bytes: of the file; None if it cannot be read by this user.
    """

    path: Path
    mode: int | None
    size_bytes: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class WayToHead:
    """What connecting to the head showed.

    Attributes:
        address: host:port of the head's Ray.
        seconds: until the connection stood; None if it did not.
        problem: why it did not.
    """

    address: str
    seconds: float | None
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What the findings follow from.

    Attributes:
        name: this host's.
        is_head: whether the others join this host.
        token: None if no token is used.
        way: to the head's Ray; None if hosts find each other by a folder.
        closed: further fixed ports of Ray that did not answer: on the head, of hosts that do not
            answer; elsewhere, of the head.
        ray: version of Ray, and of the Python it runs in; empty without Ray.
        ray_problem, ray_hint: why there is no Ray that can be used, and what to do.
    """

    name: str
    is_head: bool
    token: TokenFile | None = None
    way: WayToHead | None = None
    closed: tuple[WayToHead, ...] = ()
    ray: str = ""
    ray_problem: str = ""
    ray_hint: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class EndpointFacts:
    """How endpoints of several hosts reach each other, as far as this host sees it.

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


def check_cluster(facts: ClusterFacts) -> list[DoctorFinding]:
    """Return all findings, in the order in which they build on each other. Pure."""
    found = [*_ray(facts)]
    if facts.token is not None:
        found.append(_token(facts.token, facts.name))
    if facts.way is not None:
        found += _way(facts.way, is_head=facts.is_head)
    if facts.closed:
        found.append(
            _closed(
                "cluster reach",
                facts.closed,
                "see that partitiond-ray runs there, and open Ray's ports between the hosts, in "
                "both directions",
                "systemctl status partitiond-ray",
            )
        )
    return found


def check_endpoints(facts: EndpointFacts) -> list[DoctorFinding]:
    """Return all findings on the port at which other hosts' endpoints are served. Pure."""
    found = []
    if facts.problem:
        found.append(
            fail(
                PEERS,
                f"the endpoint cannot serve those of other hosts at {facts.address}: "
                f"{facts.problem}",
                "stop what uses the port, or choose another: --set proxy.peers_port=PORT",
            )
        )
    if facts.closed:
        found.append(
            _closed(
                PEERS,
                facts.closed,
                "see that partitiond runs there, and open proxy.peers_port between the hosts, in "
                "both directions",
                "systemctl status partitiond",
            )
        )
    return found or [ok(PEERS, f"{facts.address}, for those of other hosts")]


def _ray(facts: ClusterFacts) -> list[DoctorFinding]:
    if facts.ray_problem:
        return [fail("cluster ray", facts.ray_problem.rstrip("."), facts.ray_hint.rstrip("."))]
    return [ok("cluster ray", f"{facts.ray}; to be the same on all hosts")] if facts.ray else []


def _token(token: TokenFile, name: str) -> DoctorFinding:
    check = "cluster token"
    if token.mode is None:
        return fail(
            check,
            f"there is no {token.path}",
            f"copy the file from the head to {name}, with mode 0600, over a safe channel",
        )
    if token.size_bytes is None:
        return fail(
            check,
            f"{token.path} cannot be read by this user",
            "give the file to the daemon's user",
        )
    if not token.size_bytes:
        return fail(check, f"{token.path} is empty", "copy the file from the head again")
    if token.mode & 0o077:
        return fail(
            check,
            f"others may read {token.path} (mode {token.mode:04o}): whoever holds the token runs "
            "programs on every host",
            "close it, and make a new token if another user may have read it",
            f"chmod 600 {token.path}",
        )
    return ok(check, f"{token.path}, for this user alone")


def _way(way: WayToHead, *, is_head: bool) -> list[DoctorFinding]:
    check = "cluster head"
    if way.seconds is None:
        whose = "this host's Ray" if is_head else "the head"
        return [
            fail(
                check,
                f"{whose} does not answer at {way.address}: {way.problem}",
                "start partitiond on the head, and open the port between the hosts",
                "systemctl status partitiond",
            )
        ]
    took = f"{way.address} answers in {way.seconds * 1000:.1f} ms"
    found = [ok(check, took)]
    if way.seconds > SLOW_SECONDS:
        found = [warn(check, f"{took}: far for one fleet", "make a fleet of each site")]
    return found


def _closed(check: str, ways: Sequence[WayToHead], advice: str, command: str) -> DoctorFinding:
    named = ", ".join(f"{way.address} ({way.problem})" for way in ways)
    return warn(check, f"nothing answers at {named}", advice, command)


def examine_cluster(
    settings: "Settings", host: SetupHost, *, daemon_runs: bool
) -> list[DoctorFinding]:
    """Check this host's part in a cluster; nothing where there is none. Takes seconds at most."""
    settings = as_installed(settings, host)
    cluster = settings.cluster
    if not (cluster.enabled or cluster.joined) or cluster.folder is not None:  # a trial without Ray
        return []
    hosts = hosts_told(settings) if cluster.enabled else ()
    return [
        *check_cluster(cluster_facts(settings, hosts)),
        *check_endpoints(endpoint_facts(settings, hosts, daemon_runs=daemon_runs)),
    ]


def cluster_facts(settings: "Settings", hosts: Sequence[HostView]) -> ClusterFacts:
    """Gather the facts of this host."""
    cluster = settings.cluster
    own = f"{cluster.address or platform.node()}:{cluster.port}"
    ray, problem, hint = _ray_of(settings)
    way = way_to(cluster.head or own)
    return ClusterFacts(
        name=settings.host.own_name,
        is_head=cluster.enabled,
        token=token_file(settings.cluster_token_path),
        closed=not_answering(other_addresses(hosts, cluster.head, cluster.port))
        if way.seconds is not None
        else (),
        way=way,
        ray="" if ray is None else f"Ray {ray.version} ({ray.python}), partitiond {__version__}",
        ray_problem=problem,
        ray_hint=hint,
    )


def endpoint_facts(
    settings: "Settings", hosts: Sequence[HostView], *, daemon_runs: bool
) -> EndpointFacts:
    """Gather what is seen from here of the endpoints' port."""
    cluster, port = settings.cluster, settings.proxy.peers_port
    try:
        address = own_address(settings)
    except SettingsError as error:
        return EndpointFacts("an address of this host", error.message.rstrip("."))
    return EndpointFacts(
        f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
        "" if daemon_runs else bind_problem(address, port),
        closed=not_answering(peers_to_try(hosts, cluster.head, port)),
    )


def token_file(path: Path) -> TokenFile:
    """Look at the file, and read nothing of it."""
    try:
        seen = path.stat()
    except OSError:
        return TokenFile(path, None, None)
    may = os.access(path, os.R_OK)
    return TokenFile(path, stat.S_IMODE(seen.st_mode), seen.st_size if may else None)


def way_to(address: str) -> WayToHead:
    """Connect once, and close the connection."""
    host, _, port = address.rpartition(":")
    began = time.monotonic()
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
            return WayToHead(address, time.monotonic() - began)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        return WayToHead(address, None, problem)


def other_addresses(hosts: Sequence[HostView], head: str, port: int) -> list[str]:
    """Return where Ray should answer besides its directory, as host:port.

    Args:
        hosts: of the fleet, as the head knows them; their ports are taken to be the head's own.
        head: address of the head that this host obeys; empty on the head.
        port: the first of this host's ports.
    """
    if head:
        host, _, first = head.rpartition(":")
        ports = ports_of(int(first))
        return [f"{host}:{ports[name]}" for name in RAYLET_PORTS]
    return [
        f"{host.address}:{ports_of(port)[name]}"
        for host in hosts
        if host.address and not host.is_head and host.state not in ANSWERING
        for name in RAYLET_PORTS
    ]


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


def not_answering(addresses: Sequence[str]) -> tuple[WayToHead, ...]:
    """Return the addresses at which nothing answers, with the reasons; takes some seconds."""
    with concurrent.futures.ThreadPoolExecutor(8) as asking:
        ways = asking.map(way_to, addresses[:REACH_MOST])
        return tuple(way for way in ways if way.seconds is None)


def hosts_told(settings: "Settings") -> tuple[HostView, ...]:
    """Return the hosts of the fleet, as the daemon on this host tells; empty if it does not."""
    try:
        with connected(settings) as client:
            return tuple(client.hosts())
    except PartitiondError:
        return ()  # no daemon runs, or this user may not read its token


def _ray_of(settings: "Settings") -> tuple[RayEnvironment | None, str, str]:
    """Return this host's Ray; else None, why there is none and what to do."""
    try:
        return ray_of(settings), "", ""
    except SettingsError as error:
        return None, error.message, error.hint
