"""Checks the endpoint's certificate and key files, and reads when the certificate expires."""

import _ssl
import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from partitiond.core.errors import SettingsError

NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For a client of a Unix socket or of HTTP: httpx would otherwise read all certificate authorities,
40 ms of CPU time for each client, and the daemon's own asks its proxy ten times a second."""


def check_readable(path: Path, of: str, hint: str) -> None:
    """Raise SettingsError where a file of a setting cannot be read."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise SettingsError(
            f"{of}{path} cannot be read: {error.strerror or error}.",
            hint=hint,
            facts={"path": str(path)},
        ) from error


def check_files(certificate: Path, key: Path) -> list[str]:
    """Load both files as the endpoint will, and return warnings.

    Raises:
        SettingsError: a file cannot be read, or the files do not belong together.
    """
    for name, path in (("tls_certificate", certificate), ("tls_key", key)):
        check_readable(path, f"proxy.{name}: ", "Name a PEM file that the daemon's user may read.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty pass phrase, because OpenSSL would otherwise ask for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError, OSError) as error:
        raise SettingsError(
            f"{certificate} and {key} are no certificate and its key: {_words(error)}.",
            hint="Give PEM files that belong together; the key has no pass phrase.",
            facts={"certificate": str(certificate), "key": str(key)},
        ) from error
    mode = stat.S_IMODE(key.stat().st_mode)
    if not mode & stat.S_IROTH:
        return []
    return [f"{key} can be read by every user of this host (mode {mode:04o}): chmod 600 {key}"]


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else str(error)


def valid_until(certificate: Path) -> datetime:
    """The time at which the first certificate of a PEM file expires.

    Raises:
        ValueError, OSError: the certificate cannot be read.
    """
    # The standard library's own tests read a certificate in this way; the public ways read those
    # of peers and authorities alone.
    told = getattr(_ssl, "_test_decode_cert")(str(certificate))  # noqa: B009 - no type checker knows it
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(told["notAfter"])), UTC)
