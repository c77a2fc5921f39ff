"""Shows, before anything is measured, that the client sees what a proxy may do to an answer.

A relay in front of the upstream passes all on as it is, in small pieces, and then damages one thing
at a time. A client that finds damage where there is none, or none where there is, ends the run: its
counts of lost and wrong chunks would mean nothing.
"""

import contextlib
import dataclasses
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from bench.proxy import native
from bench.proxy.native import Load, Upstream

REQUESTS: Final = Load("requests", 8, 0.2)
STREAMS: Final = Load("streams", 8, 0.3, 30, 100, once=True)
_EVENT_5: Final = re.compile(rb'[0-9a-f]+\r\ndata: [^\r]*" 00000005 [^\r]*\r\n')
"""A chunk of the answer, which has this event."""

Tamper = Callable[[bytes], bytes | None]
DAMAGES: Final[tuple[tuple[Load, Tamper, str], ...]] = (
    (STREAMS, lambda data: _EVENT_5.sub(b"", data), "lost"),
    (STREAMS, lambda data: data.replace(b'" 00000005 ', b'" 00000015 '), "wrong"),
    (STREAMS, lambda data: data.replace(b"null", b"nulL"), "wrong"),
    (STREAMS, lambda data: data.replace(b"[DONE]", b"[DOME]"), "wrong"),
    (STREAMS, lambda data: None if b"00000009" in data else data, "lost"),
    (STREAMS, lambda data: data.replace(b"200 OK", b"503 No"), "errors"),
    (REQUESTS, lambda data: data.replace(b"cmpl-0", b"cmpl-1"), "wrong"),  # of another request
)
"""What is sent, what the relay makes of it (None closes the connection), and what is found."""


@contextlib.contextmanager
def relay(upstream: Upstream, tamper: Tamper, piece: int = 65536) -> Iterator[int]:
    """Run a proxy that changes what the engine says; yields its port."""

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as engine:
                engine.connect(upstream.path)
                pump = threading.Thread(target=_pass_on, args=(self.request, engine))
                pump.start()
                with contextlib.suppress(OSError):
                    while (data := engine.recv(65536)) and (changed := tamper(data)) is not None:
                        for at in range(0, len(changed), piece):
                            self.request.sendall(changed[at : at + piece])
                with contextlib.suppress(OSError):
                    self.request.shutdown(socket.SHUT_RDWR)
                pump.join()

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Connection) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def _pass_on(client: socket.socket, engine: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := client.recv(65536):
            engine.sendall(data)
        engine.shutdown(socket.SHUT_RDWR)


def found_by(load: Load, port: int) -> dict[str, Any]:
    """What the client reports of this port."""
    return native.read_report(native.start_client(load, port, core=None))


def check(upstream: Upstream) -> None:
    """Raise RuntimeError if the client sees damage where there is none, or does not see one."""
    for usage in (False, True):
        load = dataclasses.replace(STREAMS, usage=usage, grace=10)
        with relay(upstream, lambda data: data, piece=7) as port:
            seen = found_by(load, port)
        damage = {name: seen[name] for name in ("errors", "wrong", "lost", "unfinished")}
        if any(damage.values()) or (seen["requests"], seen["chunks"]) != (8, 8 * load.chunks):
            raise RuntimeError(f"The client counts {seen}, and nothing was damaged.")
    for number, (load, tamper, name) in enumerate(DAMAGES):
        with relay(upstream, tamper) as port:
            seen = found_by(load, port)
        if not seen[name]:
            raise RuntimeError(f"The client does not see damage {number} ({name}): {seen}")
