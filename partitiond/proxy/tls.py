"""TLS of the data listener, with certificates that are read again when they change.

Each reading makes a context of its own, which the next handshakes use; connections keep theirs. A
renewal that cannot be read (half written, not matching its key) leaves the former one in force. A
context that is loaded anew instead would keep the former certificate beside the new one where
they have keys of different kinds, and go on presenting it.
"""

import asyncio
import fcntl
import logging
import ssl
import struct
import termios
from pathlib import Path
from typing import Final

from partitiond.core.errors import SettingsError
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.logs import LogFile, json_line

RELOAD_SECONDS: Final = 2.0
"""How often the files are looked at."""

Stamp = tuple[int, int, int, int]

_logger = logging.getLogger("partitiond.proxy")


class ServerTls:
    """The certificate, its key, and the context that presents them.

    Attributes:
        context: for the next handshake.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises SettingsError where they cannot be used."""
        self._certificate = certificate
        self._key = key
        # Before the files are read: what changes meanwhile is read again.
        self._stamp = self._read_stamp()
        self.context = self._read()

    def reload(self) -> bool:
        """Read the files if they have changed; whether they were.

        Raises:
            SettingsError: they have changed and cannot be used; the former stay in force, and
                are not tried again until they change once more.
        """
        stamp = self._read_stamp()
        if stamp is None or stamp == self._stamp:
            return False
        self._stamp = stamp
        self.context = self._read()
        return True

    def refresh(self, log: LogFile) -> None:
        """Reload, and log what came of it."""
        try:
            if self.reload():
                log.write(json_line("tls_reloaded", certificate=str(self._certificate)))
        except SettingsError as error:
            _logger.error("the former certificate stays in force: %s", error.message)

    async def watch(self, log: LogFile) -> None:
        """Refresh now and then, for ever."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            self.refresh(log)

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # A client cannot make the server negotiate anew within a connection, at its cost.
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        try:
            # Without a password, or OpenSSL would ask for one on the terminal.
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


def unsent_bytes(transport: asyncio.BaseTransport) -> int:
    """What the client has not taken of all that was written, as far as the kernel has it.

    The buffers of a TLS transport cannot be seen from outside, but they are emptied into the
    kernel's, which is empty only after them.
    """
    connection = transport.get_extra_info("socket")
    try:
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except (AttributeError, OSError, ValueError):
        return 0  # it is closed
    return int(struct.unpack("i", answer)[0])
