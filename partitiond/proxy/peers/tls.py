"""Provides TLS between the proxies of two hosts: each side shows a certificate of the fleet.

The files are those with which the hosts of a fleet know each other anyway (`ca.pem`, `cert.pem`,
`key.pem`). They are read again when they change, for the next connections. Open ones stay, unless
an authority is one no more. Files that cannot be read leave the former ones in force.
"""

import logging
import ssl
import time
from pathlib import Path
from typing import Final

from partitiond.core.errors import SettingsError

CA_FILE: Final = "ca.pem"
CERTIFICATE_FILE: Final = "cert.pem"
KEY_FILE: Final = "key.pem"
RELOAD_SECONDS: Final = 2.0
"""Shortest time between two looks at the files."""

_logger = logging.getLogger("partitiond.proxy")

Stamp = tuple[tuple[int, int, int], ...]


class PeerTls:
    """The contexts of both sides, made of the files in one folder.

    Raises:
        SettingsError: the files cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stamp = self._read_stamp()
        self._looked_at = time.monotonic()
        self._server, self._client = self._read()
        self._authorities = self._read_authorities()

    def authorities(self) -> frozenset[bytes]:
        """Return the certificates of the authorities in force."""
        self._refresh()
        return self._authorities

    def server(self) -> ssl.SSLContext:
        """Return the context of the side that is called."""
        self._refresh()
        return self._server

    def client(self) -> ssl.SSLContext:
        """Return the context of the side that calls."""
        self._refresh()
        return self._client

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < RELOAD_SECONDS:
            return
        self._looked_at = now
        stamp = self._read_stamp()
        if stamp is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._server, self._client = self._read()
            self._authorities = self._read_authorities()
        except SettingsError as error:
            _logger.error("the former certificate for other hosts stays in force: %s", error)

    def _read(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        contexts = []
        for purpose in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
            context = ssl.SSLContext(purpose)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self._folder / CA_FILE)
                context.load_cert_chain(
                    self._folder / CERTIFICATE_FILE, self._folder / KEY_FILE, password=lambda: ""
                )
            except (OSError, ssl.SSLError, ValueError) as error:
                raise SettingsError(
                    f"The certificates for other hosts in {self._folder} cannot be used: {error}.",
                    hint="Make them with `partitiond host certificate`.",
                    facts={"peers_tls": str(self._folder)},
                ) from error
            contexts.append(context)
        return contexts[0], contexts[1]

    def _read_authorities(self) -> frozenset[bytes]:
        return frozenset(self._server.get_ca_certs(binary_form=True))

    def _read_stamp(self) -> Stamp | None:
        """Return a stamp that differs between versions of the files; None while one is missing."""
        try:
            found = [(self._folder / n).stat() for n in (CA_FILE, CERTIFICATE_FILE, KEY_FILE)]
        except OSError:
            return None
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)
