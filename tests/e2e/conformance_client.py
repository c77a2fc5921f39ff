"""Sends a request to an engine's socket or the proxy's port, and reads the whole answer."""

import dataclasses
import http.client
import json
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

SECONDS: Final = 120
"""A real engine on a busy machine computes some of these requests for long."""
JSON: Final = "application/json"

_ID: Final = re.compile(
    r'("(?:id|item_id|request_id)":\s*")(cmpl|chatcmpl|resp|msg|embd|pooling|score|classify)([-_])[^"]*"'
)
_TIME: Final = re.compile(r'("(?:created|created_at)":\s*)\d+')
_FINGERPRINT: Final = re.compile(r',\s*"system_fingerprint":\s*"[^"]*"')
"""It goes with the usage that a stream's client did not ask for."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer. `headers`: names in small letters; `end`: what cut it off, or nothing."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    end: str = ""

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        assert len(found) <= 1, f"{name} came {len(found)} times"
        return found[0] if found else None

    @property
    def streamed(self) -> bool:
        return (self.header("content-type") or "").startswith("text/event-stream")

    def json(self) -> Any:
        return json.loads(self.body)

    def text(self) -> str:
        """The body without what differs from request to request: ids and times."""
        text = self.body.decode(errors="surrogateescape")
        return _TIME.sub(r"\g<1>0", _ID.sub(r'\g<1>\g<2>"', text))

    def events(self) -> list[str]:
        """The stream's events, as sent but for ids, times and the engine's fingerprint; the last
        may be cut off.
        """
        text = _FINGERPRINT.sub("", self.text())
        events = text.split("\n\n")
        if events[-1] == "":
            events.pop()
        else:
            events[-1] += " <without an end>"
        return events

    def events_of_each_choice(self) -> list[list[str]]:
        """The events sorted by their choice: between choices the order is the engine's."""
        groups: dict[str, list[str]] = {}
        for event in self.events():
            found = re.search(r'"choices":\[\{"index":(\d+)', event)
            groups.setdefault(found[1] if found else "none", []).append(event)
        return [groups[key] for key in sorted(groups)]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self._path)


def connect(where: Path | str) -> http.client.HTTPConnection:
    """A path is a Unix socket, anything else a base URL."""
    if isinstance(where, Path):
        return _UnixConnection(str(where))
    url = urlsplit(where)
    assert url.hostname is not None
    return http.client.HTTPConnection(url.hostname, url.port, timeout=SECONDS)


def ask(
    where: Path | str,
    path: str,
    body: Mapping[str, Any] | bytes | None = None,
    *,
    method: str = "POST",
    headers: Iterable[tuple[str, str]] = (),
    content_type: str = JSON,
) -> Reply:
    """Ask on a connection of its own, and read the answer to its end."""
    connection = connect(where)
    try:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.putrequest(method, path)
        if data is not None:
            connection.putheader("content-type", content_type)
            connection.putheader("content-length", str(len(data)))
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(data)
        return _read(connection.getresponse())
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse) -> Reply:
    headers = tuple((name.lower(), value) for name, value in response.getheaders())
    try:
        return Reply(response.status, headers, response.read())
    except http.client.IncompleteRead as cut:
        return Reply(response.status, headers, cut.partial, "cut off")
