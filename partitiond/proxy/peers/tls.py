"""Provides TLS between the proxies of two hosts: each side shows a certificate of the fleet.

The files are those with which the hosts of a fleet know each other anyway. They are read again when
they change, for the next connections; open ones take no further request, and end.
"""

import ssl
from pathlib import Path
from typing import Final, NamedTuple

from partitiond.core.errors import SettingsError
from partitiond.platform.watched_files import WatchedFiles

CA_FILE: Final = "ca.pem"
CERTIFICATE_FILE: Final = "cert.pem"
KEY_FILE: Final = "key.pem"


class PeerContext(NamedTuple):
    """What the files of one folder make.

    Attributes:
        server, client: contexts of the side that is called, and of the side that calls.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext


PeerTls = WatchedFiles[PeerContext]


def peer_tls(folder: Path) -> PeerTls:
    """Return TLS with the files in a folder. Raises SettingsError if they cannot be used."""
    paths = [folder / name for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE)]
    purposes = ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT
    return WatchedFiles(paths, lambda: PeerContext(*(_context(folder, one) for one in purposes)))


def _context(folder: Path, purpose: int) -> ssl.SSLContext:
    context = ssl.SSLContext(purpose)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(folder / CA_FILE)
        context.load_cert_chain(folder / CERTIFICATE_FILE, folder / KEY_FILE, password=lambda: "")
    except (OSError, ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"The certificates for other hosts in {folder} cannot be used: {error}.",
            hint="Make them with `partitiond host certificate`.",
            facts={"peers_tls": str(folder)},
        ) from error
    return context
