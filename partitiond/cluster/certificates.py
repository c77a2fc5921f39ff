"""Checks, writes and dates the three files with which the hosts of a fleet know each other.

The files are `ca.pem` (the fleet's authority), `cert.pem` (this host's certificate) and `key.pem`
(its key), in one folder: made by `partitiond host certificate`, or the operator's own. Ray reads
them when it starts and never again, so files that are replaced count from Ray's next start on.

A check is a handshake of the files with themselves, in memory: what it refuses, a peer refuses.
"""

import dataclasses
import ipaddress
import ssl
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from partitiond.cluster.private_files import make_private, refuse_open, write_private, writing
from partitiond.core.errors import SettingsError
from partitiond.platform.tls_files import check_readable, valid_until

CA_FILE: Final = "ca.pem"
CERTIFICATE_FILE: Final = "cert.pem"
KEY_FILE: Final = "key.pem"
WARN_DAYS: Final = 30.0
"""Days before its end at which a certificate should be renewed. Chosen: a month leaves time to go
from host to host."""
TURNS: Final = 8
"""Rounds of a handshake in memory, which takes three."""
SECONDS_A_DAY: Final = 86_400.0
HINT: Final = (
    "On the head, `partitiond host certificate --for NAME --address ADDRESS` makes another (its "
    "own: `--make`); or correct the files that cluster.tls_dir names."
)


@dataclasses.dataclass(frozen=True, slots=True)
class HostFiles:
    """The contents of the three files, in PEM."""

    ca: str
    certificate: str
    key: str = dataclasses.field(repr=False)

    def by_name(self) -> dict[str, str]:
        """Return the contents by the files' names."""
        return {CA_FILE: self.ca, CERTIFICATE_FILE: self.certificate, KEY_FILE: self.key}


def check_files(folder: Path, names: Sequence[str]) -> None:
    """Check that hosts can know this one by its files.

    Args:
        names: host names and addresses at which others reach this host; with none, all is checked
            but names. Ray's connections are checked against the address alone.

    Raises:
        SettingsError: a file is missing or can be read by others, the certificate is not of the
            authority, expired, not valid for both ends of a connection or for one of the names, or
            the key is another one's.
    """
    for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE):
        check_readable(folder / name, "", HINT)
    key = folder / KEY_FILE
    refuse_open(key, key.stat().st_mode, "the key of this host", "have new files made")
    for name in names or ("",):
        problem = _problem(folder, name)
        if problem:
            raise SettingsError(
                f"the certificate in {folder} does not let other hosts know {name or 'this one'}: "
                f"{problem}.",
                hint=HINT,
                facts={"folder": str(folder), "name": name},
            )


def _problem(folder: Path, name: str) -> str:
    """Return why both ends of a connection to a name would not agree; empty if they do."""
    ca = str(folder / CA_FILE)
    try:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        server.verify_mode = ssl.CERT_REQUIRED
        client.check_hostname = bool(name)
        for context in (server, client):
            context.load_verify_locations(ca)
            # An empty pass phrase, because OpenSSL would otherwise ask for one on the terminal.
            context.load_cert_chain(folder / CERTIFICATE_FILE, folder / KEY_FILE, password="")
        _shake_hands(server, client, name)
    except (ssl.SSLError, ssl.CertificateError, ValueError, OSError) as error:
        return _words(error)
    return ""


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """Connect both ends in memory. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name or None),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(TURNS):
        for end in tuple(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
        if not ends:
            return
    raise ValueError("the two ends of a connection did not agree")


def _words(error: Exception) -> str:
    verified = getattr(error, "verify_message", None)
    reason = verified or getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ").rstrip(".") if reason else str(error).rstrip(".")


def is_address(name: str) -> bool:
    """Whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def write_files(folder: Path, files: HostFiles) -> None:
    """Replace the three files, each whole, the key readable by its owner alone.

    Raises:
        SettingsError: the folder cannot be written.
    """
    with writing("the certificate", folder, "Correct cluster.tls_dir, or who may write there."):
        make_private(folder)
        for name, text in files.by_name().items():
            write_private(folder / name, text)


def days_left(folder: Path, now: datetime) -> float:
    """Return the days until the certificate or its authority expires; negative if one has.

    Args:
        now: with a time zone.

    Raises:
        SettingsError: the files cannot be read.
    """
    try:
        until = min(valid_until(folder / name) for name in (CERTIFICATE_FILE, CA_FILE))
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"the certificate in {folder} cannot be read: {error}.",
            hint=HINT,
            facts={"folder": str(folder)},
        ) from error
    return (until - now).total_seconds() / SECONDS_A_DAY
