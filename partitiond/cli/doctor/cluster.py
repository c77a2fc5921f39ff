"""Checks what one host of several needs: Ray, the token, the certificate, the way to the head.

Files are judged by the functions that refuse them when the daemon starts. Which hosts answer, with
their clocks and versions, stands in `partitiond hosts`.
"""

import platform
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from partitiond import __version__
from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.cli.setup.cluster_units import as_installed
from partitiond.cli.setup.host import SetupHost
from partitiond.cluster.certificates import check_files
from partitiond.cluster.of_settings import ray_of
from partitiond.cluster.own_files import own_address
from partitiond.cluster.token import check_token
from partitiond.core.errors import SettingsError

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings

CONNECT_SECONDS: Final = 3.0
"""Deadline of one connection to the head. Chosen: a host farther away is of no use in a fleet."""
SLOW_SECONDS: Final = 0.02
"""Time to connect above which each step of a start or a drain is felt. Chosen: hosts of one site
take less than 1 ms."""


def examine_cluster(settings: "Settings", host: SetupHost) -> list[DoctorFinding]:
    """Check this host's part in a cluster; nothing where there is none. Takes seconds at most."""
    settings = as_installed(settings, host)
    cluster = settings.cluster
    if not (cluster.enabled or cluster.joined) or cluster.folder is not None:  # a trial without Ray
        return []
    head = cluster.head or f"{cluster.address or platform.node()}:{cluster.port}"
    return [
        _judged("cluster ray", lambda: _ray(settings)),
        _judged("cluster token", lambda: _token(settings)),
        _judged("cluster certificate", lambda: _certificate(settings)),
        check_way(head, way_to(head), is_head=cluster.enabled),
    ]


def _judged(check: str, look: Callable[[], str]) -> DoctorFinding:
    """Return what a look found, or what it refused, as the daemon's start would."""
    try:
        return ok(check, look())
    except SettingsError as error:
        return fail(check, error.message.rstrip("."), error.hint.rstrip("."))


def _ray(settings: "Settings") -> str:
    ray = ray_of(settings)
    return (
        f"Ray {ray.version} ({ray.python}), partitiond {__version__}; to be the same on all hosts"
    )


def _token(settings: "Settings") -> str:
    check_token(settings.cluster_token_path)
    return f"{settings.cluster_token_path}, for this user alone"


def _certificate(settings: "Settings") -> str:
    address = own_address(settings)
    check_files(settings.cluster_tls_dir, [address])
    return f"in {settings.cluster_tls_dir}, for {address}"


def check_way(address: str, way: float | str, *, is_head: bool) -> DoctorFinding:
    """Check that the head answers, and soon. Pure.

    Args:
        address: host:port of the head's Ray.
        way: what `way_to` found.
    """
    check, whose = "cluster head", "this host's Ray" if is_head else "the head"
    if isinstance(way, str):
        return fail(
            check,
            f"{whose} does not answer at {address}: {way}",
            "start partitiond on the head, and open the port between the hosts",
            "systemctl status partitiond",
        )
    took = f"{address} answers in {way * 1000:.1f} ms"
    if way > SLOW_SECONDS:
        return warn(check, f"{took}: far for one fleet", "make a fleet of each site")
    return ok(check, took)


def way_to(address: str) -> float | str:
    """Connect three times, or until it fails. Returns the fastest's seconds, or why there is none.

    The fastest tells how far the head is; the others may wait for a busy host.
    """
    host, _, port = address.rpartition(":")
    took: list[float] = []
    try:
        while len(took) < 3:
            began = time.monotonic()
            with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
                took.append(time.monotonic() - began)
    except (OSError, ValueError, OverflowError) as error:
        if not took:
            return getattr(error, "strerror", None) or str(error)
    return min(took)
