"""Checks what one host of several needs: the token, the way to the head, clocks, versions.

The facts are gathered with deadlines; what follows from them is pure.
"""

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import os
import platform
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from partitiond import __version__
from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.cli.options import connected
from partitiond.cli.setup.cluster_units import as_installed
from partitiond.cli.setup.host import SetupHost
from partitiond.cluster.of_settings import ray_of
from partitiond.cluster.ray_environment import RayEnvironment
from partitiond.cluster.ray_node import ports_of, worker_ports
from partitiond.core.errors import PartitiondError, SettingsError
from partitiond.core.hardware.host_state import HostState, HostView
from partitiond.core.units import GIB, format_bytes

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings

CLOCK_WARN_SECONDS: Final = 1.0
"""Offset of a clock above which events and logs of hosts are read in a wrong order. Chosen: NTP
keeps clocks within milliseconds, and what happens to a replica takes seconds."""
CLOCK_FAIL_SECONDS: Final = 30.0
"""Offset of a clock above which keys and budgets end noticeably early or late. Chosen: certificates
of partitiond's own authority allow for a day."""
CONNECT_SECONDS: Final = 3.0
"""Deadline of one connection to the head. Chosen: a host farther away is of no use in a fleet."""
SLOW_SECONDS: Final = 0.02
"""Time to connect above which each step of a start or a drain is felt. Chosen: hosts of one site
take less than 1 ms."""
LEAST_MTU: Final = 1280
"""Bytes of a packet that every IPv6 link carries; less is a tunnel that nobody meant."""
LEAST_MODELS_BYTES: Final = 20 * GIB
"""Room for the 16-bit weights of one model of eight billion parameters."""
ANY_ADDRESS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - looked for, not listened on
IP_MTU: Final = 14
"""Linux's option of a connected socket that returns what its path carries."""
RAYLET_PORTS: Final = ("node-manager-port", "object-manager-port")
"""Those of Ray's fixed ports at which something listens on each host all the time."""
ANSWERING: Final = frozenset({HostState.FINE, HostState.REFUSED})
"""States of hosts that are reached."""
REACH_MOST: Final = 32
"""Addresses that are tried, 8 at a time. Chosen: a dozen seconds at most, and enough to see why."""
TIME_ERROR: Final = 5
"""What Linux answers while nothing keeps its clock (adjtimex)."""


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
        mtu_bytes: largest packet on the way, as the kernel knows; None if it does not.
    """

    address: str
    seconds: float | None
    problem: str = ""
    mtu_bytes: int | None = None


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
        open_ports: Ray's ports on this host that listen on all addresses.
        clock_is_kept: whether something keeps this host's clock; None if that is not known.
        hosts: of the fleet, as the daemon on the head tells; empty if it was not asked.
        ray: version of Ray, and of the Python it runs in; empty without Ray.
        ray_problem, ray_hint: why there is no Ray that can be used, and what to do.
        models_free_bytes: room on the disk of models.
    """

    name: str
    is_head: bool
    token: TokenFile | None = None
    way: WayToHead | None = None
    closed: tuple[WayToHead, ...] = ()
    open_ports: tuple[int, ...] = ()
    clock_is_kept: bool | None = None
    hosts: tuple[HostView, ...] = ()
    ray: str = ""
    ray_problem: str = ""
    ray_hint: str = ""
    models_free_bytes: int = LEAST_MODELS_BYTES


def check_cluster(facts: ClusterFacts) -> list[DoctorFinding]:
    """Return all findings, in the order in which they build on each other. Pure."""
    found = [*_ray(facts)]
    if facts.token is not None:
        found.append(_token(facts.token, facts.name))
    if facts.way is not None:
        found += _way(facts.way, is_head=facts.is_head)
    if facts.closed:
        found.append(_closed(facts.closed))
    if facts.open_ports:
        found.append(_ports(facts.open_ports))
    found += _clocks(facts)
    if facts.models_free_bytes < LEAST_MODELS_BYTES:
        found.append(
            warn(
                "cluster models",
                f"{format_bytes(facts.models_free_bytes)} free on the disk of models",
                "make room: models are copied to each host that serves them",
            )
        )
    return found


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
    if way.mtu_bytes is not None and way.mtu_bytes < LEAST_MTU:
        found.append(
            warn(
                "cluster mtu",
                f"packets to {way.address} have at most {way.mtu_bytes} bytes",
                "look for a tunnel on the way, and raise its MTU",
            )
        )
    return found


def _closed(ways: Sequence[WayToHead]) -> DoctorFinding:
    named = ", ".join(f"{way.address} ({way.problem})" for way in ways)
    return warn(
        "cluster reach",
        f"Ray does not answer at {named}",
        "see that partitiond-ray runs there, and open Ray's ports between the hosts, in both "
        "directions",
        "systemctl status partitiond-ray",
    )


def _ports(ports: Sequence[int]) -> DoctorFinding:
    named = f"{ports[0]}" if len(ports) == 1 else f"{ports[0]} to {ports[-1]} ({len(ports)} ports)"
    return warn(
        "cluster ports",
        f"Ray listens on all addresses of this host, at {named}: only the token and, with TLS, "
        "certificates guard them",
        "let a firewall admit the hosts of the fleet alone",
    )


def _clocks(facts: ClusterFacts) -> list[DoctorFinding]:
    check, found = "cluster clock", []
    for host in facts.hosts:
        offset = host.clock_offset_seconds
        if offset is None or abs(offset) < CLOCK_WARN_SECONDS:
            continue
        ahead = "ahead of" if offset > 0 else "behind"
        words = f"the clock of {host.name} is {abs(offset):.1f} s {ahead} the head's"
        if abs(offset) < CLOCK_FAIL_SECONDS:
            words += ": events are read in a wrong order"
            found.append(warn(check, words, f"let NTP keep the clock of {host.name}"))
        else:
            words += ": keys and budgets there end at a wrong time"
            found.append(fail(check, words, f"let NTP keep the clock of {host.name}"))
    if facts.clock_is_kept is False:
        found.append(
            warn(
                check,
                "nothing keeps the clock of this host",
                "run chrony or systemd-timesyncd",
                "timedatectl set-ntp true",
            )
        )
    known = sum(host.clock_offset_seconds is not None for host in facts.hosts)
    if found or not (known or facts.clock_is_kept):
        return found
    near = f"{known} hosts within {CLOCK_WARN_SECONDS:.0f} s" if known > 1 else "is kept"
    return [ok(check, near)]


def examine_cluster(settings: "Settings", host: SetupHost) -> list[DoctorFinding]:
    """Check this host's part in a cluster; nothing where there is none."""
    settings = as_installed(settings, host)
    if not (settings.cluster.enabled or settings.cluster.joined):
        return []
    return check_cluster(cluster_facts(settings))


def cluster_facts(settings: "Settings") -> ClusterFacts:
    """Gather the facts of this host; takes some seconds at most."""
    cluster = settings.cluster
    facts = ClusterFacts(
        name=settings.host.own_name,
        is_head=cluster.enabled,
        clock_is_kept=clock_is_kept(),
        hosts=hosts_told(settings) if cluster.enabled else (),
        models_free_bytes=_free(settings.models_dir),
    )
    if cluster.folder is not None:  # without Ray: a trial
        return facts
    own = f"{cluster.address or platform.node()}:{cluster.port}"
    ray, problem, hint = _ray_of(settings)
    _, most = worker_ports(cluster.port)
    way = way_to(cluster.head or own)
    return dataclasses.replace(
        facts,
        token=token_file(settings.cluster_token_path),
        closed=not_answering(other_addresses(facts.hosts, cluster.head, cluster.port))
        if way.seconds is not None
        else (),
        way=way,
        open_ports=tuple(port for port in listening_everywhere() if cluster.port <= port <= most),
        ray="" if ray is None else f"Ray {ray.version} ({ray.python}), partitiond {__version__}",
        ray_problem=problem,
        ray_hint=hint,
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
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as line:
            seconds = time.monotonic() - began
            mtu = None
            if line.family is socket.AF_INET:
                with contextlib.suppress(OSError):
                    mtu = line.getsockopt(socket.IPPROTO_IP, IP_MTU)
            return WayToHead(address, seconds, mtu_bytes=mtu)
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


def not_answering(addresses: Sequence[str]) -> tuple[WayToHead, ...]:
    """Return the addresses at which nothing answers, with the reasons; takes some seconds."""
    with concurrent.futures.ThreadPoolExecutor(8) as asking:
        ways = asking.map(way_to, addresses[:REACH_MOST])
        return tuple(way for way in ways if way.seconds is None)


def listening_everywhere() -> list[int]:
    """Return the TCP ports that programs of this host listen on at all addresses, sorted."""
    try:
        found = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):  # hidden, as in some containers
        return []
    heard = [one.laddr for one in found if one.status == psutil.CONN_LISTEN and one.laddr]
    return on_all_addresses([(address.ip, address.port) for address in heard])


def on_all_addresses(heard: Iterable[tuple[str, int]]) -> list[int]:
    """Return the ports, sorted, of those addresses that stand for all of this host."""
    return sorted({port for address, port in heard if address in ANY_ADDRESS})


def clock_is_kept() -> bool | None:
    """Whether the kernel knows of something that keeps the clock; None if it does not say."""
    room = ctypes.create_string_buffer(512)  # more than the kernel's struct timex; zeros only ask
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(room)
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else bool(answer != TIME_ERROR)


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


def _free(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
