"""Keeps the head's own certificate, and makes the bundles with which others join."""

import contextlib
import fcntl
import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from partitiond.cluster import authority
from partitiond.cluster.bundle import Bundle, check_host_name, write_bundle
from partitiond.cluster.certificates import (
    CA_FILE,
    WARN_DAYS,
    HostFiles,
    check_files,
    days_left,
    write_files,
)
from partitiond.cluster.private_files import make_private
from partitiond.cluster.token import ensure_token
from partitiond.core.errors import ConflictError, SettingsError
from partitiond.settings.schema import Settings

ELSEWHERE: Final = "192.0.2.1"
"""An address that nobody has (RFC 5737); the kernel says from which of ours it would be reached."""


def own_address(settings: Settings) -> str:
    """Return the address at which the other hosts reach this one: the setting, or what is found.

    No packet is sent.

    Raises:
        SettingsError: this host has no address but its loopback's, or the head's name is unknown.
    """
    if settings.cluster.address:
        return settings.cluster.address
    towards = settings.cluster.head.rpartition(":")[0].strip("[]") or ELSEWHERE
    try:
        family, _, _, _, target = socket.getaddrinfo(towards, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as asked:
            asked.connect(target)
            found = str(asked.getsockname()[0])
    except OSError as error:
        raise SettingsError(
            f"the address at which other hosts reach this one is not found: {error}.",
            hint="Set cluster.address to it.",
        ) from error
    if ipaddress.ip_address(found).is_loopback and towards == ELSEWHERE:
        raise SettingsError(
            "this host has no address but its loopback's.", hint="Set cluster.address."
        )
    return found


def ensure_own_files(
    settings: Settings, now: datetime, *, addresses: Sequence[str] = (), renew: bool = False
) -> bool:
    """Make the fleet's token and the head's certificate if there are none, and check them.

    A certificate that was made here is replaced if it is of another address, or ends within
    `WARN_DAYS`: the head's own needs no renewal by hand.

    Args:
        now: with a time zone.
        addresses: at which the other hosts reach this one; without them, that of the settings.
        renew: make another certificate, whatever there is.

    Returns:
        Whether a certificate was made.

    Raises:
        ConflictError: this host obeys another one, or the certificates are the operator's own.
        SettingsError: the files cannot be made, or other hosts would not know this one by them.
    """
    _refuse_other_hosts(settings)
    with _alone(settings.state_dir):
        ensure_token(settings.cluster_token_path)
        folder, names = settings.cluster_tls_dir, addresses or [own_address(settings)]
        made = renew or (settings.cluster.tls_dir is None and _is_due(folder, names, now))
        if made:
            write_files(folder, _issue(settings, settings.host.own_name, names, now))
        check_files(folder, names)
    return made


def _is_due(folder: Path, names: Sequence[str], now: datetime) -> bool:
    """Whether there is no certificate that is good for these names and for a while."""
    try:
        check_files(folder, names)
        return days_left(folder, now) < WARN_DAYS
    except SettingsError:
        return True


@contextlib.contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """Wait for other processes that make files here: the daemon, Ray's keeper, a command."""
    try:
        make_private(state_dir)
        folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SettingsError(
            f"{state_dir} cannot be used: {error.strerror or error}.",
            hint="Run it as the daemon's user, who owns the state folder.",
            facts={"path": str(state_dir)},
        ) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def make_bundle(
    settings: Settings, host: str, addresses: Sequence[str], out: Path, now: datetime
) -> Path:
    """Make the bundle with which a host joins, and return its path.

    Args:
        addresses: at which the other hosts reach it, one at least.
        out: folder of the bundle.
        now: with a time zone.

    Raises:
        ConflictError: this host obeys another one, or the certificates are the operator's own.
        InputError: the name or an address is none, or the bundle cannot be written.
        SettingsError: the token or the authority cannot be made or read.
    """
    check_host_name(host)
    _refuse_other_hosts(settings)
    with _alone(settings.state_dir):
        ensure_token(settings.cluster_token_path)
        token = settings.cluster_token_path.read_text("ascii").strip()
        files = _issue(settings, host, addresses, now)
    return write_bundle(out, Bundle(host, token, files))


def _issue(settings: Settings, host: str, addresses: Sequence[str], now: datetime) -> HostFiles:
    if settings.cluster.tls_dir is not None:
        raise ConflictError(
            f"cluster.tls_dir is {settings.cluster.tls_dir}: the certificates of this fleet are "
            "your own.",
            hint="Make this one with your authority, or unset cluster.tls_dir.",
            facts={"folder": str(settings.cluster.tls_dir)},
        )
    folder = settings.state_dir / authority.FOLDER
    if not folder.exists() and (settings.cluster_tls_dir / CA_FILE).exists():
        raise ConflictError(
            f"the certificate in {settings.cluster_tls_dir} is of another host's authority.",
            hint="Run it on the head. Where this host is to be the head from now on, remove that "
            "folder first; each host then needs a new bundle.",
            facts={"folder": str(settings.cluster_tls_dir)},
        )
    authority.ensure_authority(folder, now)
    return authority.issue(folder, host, addresses, now)


def _refuse_other_hosts(settings: Settings) -> None:
    if settings.cluster.joined:
        raise ConflictError(
            f"this host obeys the head {settings.cluster.head}, which makes the certificates.",
            hint="Run it on the head, and copy the bundle to this host.",
            facts={"head": settings.cluster.head},
        )
