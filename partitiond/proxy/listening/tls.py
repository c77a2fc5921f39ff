"""Provides TLS for the data listener, and reloads certificates that change.

Each reload makes a new context, which the next handshakes use; connections keep theirs. If a
renewed certificate cannot be read (half written, not matching its key), the previous one stays in
force. Loading into the same context would not do: if the keys are of different kinds, the context
would keep the previous certificate beside the new one and go on presenting it.
"""

import logging
import ssl
import time
from pathlib import Path
from typing import Final

from partitiond.core.errors import SettingsError
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.telemetry.logs import LogFile, json_line

RELOAD_SECONDS: Final = 2.0
"""Shortest time between two looks at the files, which handshakes ask for."""

Stamp = tuple[int, int, int, int]

_logger = logging.getLogger("partitiond.proxy")


class ServerTls:
    """The certificate and its key, read again when they have changed."""

    def __init__(self, certificate: Path, key: Path, log: LogFile) -> None:
        """Load the files. Raises SettingsError if they cannot be used."""
        self._certificate = certificate
        self._key = key
        self._log = log
        self._looked_at = time.monotonic()
        # Taken before the files are read: a change during the reading causes a reload.
        self._stamp = self._read_stamp()
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """Return what presents the certificate in the next handshake."""
        now = time.monotonic()
        if now - self._looked_at >= RELOAD_SECONDS:
            self._looked_at = now
            self.refresh()
        return self._context

    def refresh(self) -> None:
        """Read the files if they have changed. Those that cannot be used leave the former ones in
        force, and are not tried again until they change once more.
        """
        stamp = self._read_stamp()
        if stamp is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._context = self._read()
        except SettingsError as error:
            _logger.error("the former certificate stays in force: %s", error.message)
        else:
            self._log.write(json_line("tls_reloaded", certificate=str(self._certificate)))

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # A client must not make the server renegotiate within a connection, at the server's cost.
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        try:
            # An empty password: else OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self._certificate, self._key, password=lambda: "")
        except (OSError, ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise SettingsError(
                f"The certificate {self._certificate} with the key {self._key} cannot be used: "
                f"{reason}.",
                hint="Set [proxy] tls_certificate and tls_key to readable PEM files that belong "
                "together; the key without a password.",
            ) from error
        return context

    def _read_stamp(self) -> tuple[Stamp, Stamp] | None:
        """Return a stamp that differs between versions of the files; None while one is missing."""
        try:
            stats = [path.stat() for path in (self._certificate, self._key)]
        except OSError:
            return None
        first, second = ((s.st_mtime_ns, s.st_size, s.st_ino, s.st_dev) for s in stats)
        return first, second


def server_tls(options: ProxyOptions, log: LogFile) -> ServerTls | None:
    """Return TLS as set in the options, or None. Raises SettingsError."""
    if not options.tls_certificate and not options.tls_key:
        return None
    if not options.tls_certificate or not options.tls_key:
        raise SettingsError(
            "TLS needs both a certificate and a key.",
            hint="Set [proxy] tls_certificate and tls_key, or neither.",
        )
    return ServerTls(Path(options.tls_certificate), Path(options.tls_key), log)
