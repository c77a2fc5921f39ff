"""TLS of the data listener, with certificates that are read again when they change.

The context is made once and shared by all connections; loading a renewed certificate into it
changes what the next handshakes present and leaves connections alone. A renewal that cannot be
read (half written, not matching its key) leaves the former certificate in force.
"""

import ssl
from pathlib import Path

from partitiond.core.errors import SettingsError
from partitiond.proxy.config import ProxyOptions

Stamp = tuple[int, int, int, int]


class ServerTls:
    """The certificate, its key, and the context that presents them."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises SettingsError where they cannot be used."""
        self._certificate = certificate
        self._key = key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        # A client cannot make the server negotiate anew within a connection, at its cost.
        self.context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        self._load(self.context)
        self._stamp = self._read_stamp()

    def reload(self) -> bool:
        """Load the files if they have changed; whether they were.

        Raises:
            SettingsError: they have changed and cannot be used; the former stay in force, and
                are not tried again until they change once more.
        """
        stamp = self._read_stamp()
        if stamp is None or stamp == self._stamp:
            return False
        self._stamp = stamp
        # Tried aside first: a failed load may leave a context with a key of another certificate.
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self._load(self.context)
        return True

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            # Without a password, or OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self._certificate, self._key, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"The certificate {self._certificate} with the key {self._key} cannot be used: "
                f"{error.strerror or error}.",
                hint="Set [proxy] tls_certificate and tls_key to readable PEM files that belong "
                "together; the key without a password.",
            ) from error

    def _read_stamp(self) -> tuple[Stamp, Stamp] | None:
        """What tells one version of the files from another; None while one is missing."""
        try:
            stats = [path.stat() for path in (self._certificate, self._key)]
        except OSError:
            return None
        first, second = ((s.st_mtime_ns, s.st_size, s.st_ino, s.st_dev) for s in stats)
        return first, second


def server_tls(options: ProxyOptions) -> ServerTls | None:
    """TLS as the options want it, or None. Raises SettingsError."""
    if not options.tls_certificate and not options.tls_key:
        return None
    if not options.tls_certificate or not options.tls_key:
        raise SettingsError(
            "TLS needs both a certificate and a key.",
            hint="Set [proxy] tls_certificate and tls_key, or neither.",
        )
    return ServerTls(Path(options.tls_certificate), Path(options.tls_key))
