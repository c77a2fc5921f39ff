"""Provides TLS for the data listener, with a certificate that may be renewed.

Each reload makes a new context, which the next handshakes use; connections keep theirs. Loading
into the same context would not do: if the keys are of different kinds, the context would keep the
previous certificate beside the new one and go on presenting it.
"""

import ssl
from pathlib import Path

from partitiond.core.errors import SettingsError
from partitiond.platform.watched_files import WatchedFiles
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.telemetry.logs import LogFile, json_line

ServerTls = WatchedFiles[ssl.SSLContext]


def server_tls(options: ProxyOptions, log: LogFile) -> ServerTls | None:
    """Return TLS as set in the options, or None. Raises SettingsError."""
    if not options.tls_certificate and not options.tls_key:
        return None
    if not options.tls_certificate or not options.tls_key:
        raise SettingsError(
            "TLS needs both a certificate and a key.",
            hint="Set [proxy] tls_certificate and tls_key, or neither.",
        )
    certificate, key = Path(options.tls_certificate), Path(options.tls_key)
    return WatchedFiles(
        (certificate, key),
        lambda: _context(certificate, key),
        lambda: log.write(json_line("tls_reloaded", certificate=str(certificate))),
    )


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A client must not make the server renegotiate within a connection, at the server's cost.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        # An empty password: else OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise SettingsError(
            f"The certificate {certificate} with the key {key} cannot be used: {reason}.",
            hint="Set [proxy] tls_certificate and tls_key to readable PEM files that belong "
            "together; the key without a password.",
        ) from error
    return context
