"""Checks the endpoint's certificate and key files, and reads when the certificate expires."""

import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from partitiond.core.errors import SettingsError

MAX_FILE_BYTES: Final = 1_000_000
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For a client of a Unix socket or of HTTP: httpx would otherwise read all certificate authorities,
40 ms of CPU time for each client, and the daemon's own asks its proxy ten times a second."""
_SEQUENCE, _EXPLICIT_VERSION = 0x30, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


def check_files(certificate: Path, key: Path) -> list[str]:
    """Load both files as the endpoint will, and return warnings.

    Raises:
        SettingsError: a file cannot be read, or the files do not belong together.
    """
    for name, path in (("tls_certificate", certificate), ("tls_key", key)):
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            raise SettingsError(
                f"proxy.{name}: {path} cannot be read: {error.strerror or error}.",
                hint="Name a PEM file that the daemon's user may read.",
                facts={"path": str(path)},
            ) from error
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
    with certificate.open("rb") as file:
        text = file.read(MAX_FILE_BYTES).decode("ascii", "replace")
    begin = text.find(ssl.PEM_HEADER)
    end = text.find(ssl.PEM_FOOTER, begin)
    if begin < 0 or end < 0:
        raise ValueError(f"{certificate} holds no PEM certificate")
    der = ssl.PEM_cert_to_DER_cert(text[begin : end + len(ssl.PEM_FOOTER)])
    return _not_after(der)


def _not_after(der: bytes) -> datetime:
    """The end of `validity`, the only field that we need of X.509 (RFC 5280, 4.1).

    The standard library reads only certificates of peers and authorities; a walk over four
    elements costs less than another dependency.
    """
    _, certificate, _ = _element(der, 0)
    _, fields, _ = _element(certificate, 0)
    position = 0
    tag, _, after = _element(fields, 0)
    if tag == _EXPLICIT_VERSION:
        position = after
    for _ in range(3):  # serial number, signature algorithm, issuer
        _, _, position = _element(fields, position)
    tag, validity, _ = _element(fields, position)
    if tag != _SEQUENCE:
        raise ValueError("the certificate has no validity where it should be")
    _, _, second = _element(validity, 0)
    tag, text, _ = _element(validity, second)
    return _time(tag, text)


def _element(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Tag, content and end of the DER element at a position."""
    if position + 2 > len(data):
        raise ValueError("the certificate ends too early")
    tag, length, start = data[position], data[position + 1], position + 2
    if length & 0x80:
        digits = length & 0x7F
        length = int.from_bytes(data[start : start + digits], "big")
        start += digits
    if start + length > len(data):
        raise ValueError("the certificate ends too early")
    return tag, data[start : start + length], start + length


def _time(tag: int, text: bytes) -> datetime:
    """Parse a time. UTCTime has two digits of the year, for 1950 to 2049."""
    if tag not in {_UTC_TIME, _GENERALIZED_TIME}:
        raise ValueError("the certificate's end is no time")
    digits = text.decode("ascii", "replace")
    if tag == _UTC_TIME:
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
