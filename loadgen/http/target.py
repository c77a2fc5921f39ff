"""Parses the address of a server: an http(s) URL, or the Unix socket an engine listens on."""

import dataclasses
import urllib.parse

from loadgen.errors import TargetError

_FORMS = "Write http://127.0.0.1:8000, https://host, unix:/path/to.sock or /path/to.sock."


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """One server.

    Attributes:
        host: host name, also sent as the Host header.
        port: TCP port; 0 for a Unix socket.
        socket_path: Unix socket, or empty.
        tls: whether to speak TLS.
        prefix: path before `/v1`, without a slash at its end.
    """

    host: str
    port: int
    socket_path: str = ""
    tls: bool = False
    prefix: str = ""

    def path(self, endpoint: str) -> str:
        """Path of an endpoint, as "v1/completions"."""
        return f"{self.prefix}/{endpoint}"

    def __str__(self) -> str:
        if self.socket_path:
            return f"unix:{self.socket_path}"
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}{self.prefix}"


def parse_target(text: str) -> Target:
    """Read an address.

    Raises:
        TargetError: the text is neither a URL nor a socket path.
    """
    if text.startswith("unix:"):
        text = text.removeprefix("unix:").removeprefix("//")
    if text.startswith("/"):
        return Target("localhost", 0, socket_path=text)
    parts = urllib.parse.urlsplit(text)
    try:
        port = parts.port
    except ValueError as error:
        raise TargetError(f"{text!r} has no valid port. {_FORMS}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise TargetError(f"{text!r} is no address. {_FORMS}")
    tls = parts.scheme == "https"
    prefix = parts.path.rstrip("/")
    for end in ("/completions", "/chat", "/v1"):
        prefix = prefix.removesuffix(end)
    return Target(parts.hostname, port or (443 if tls else 80), tls=tls, prefix=prefix)
