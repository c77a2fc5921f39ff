"""Runs uvicorn's server within our process: without logs and without its own signal handling."""

import contextlib
from collections.abc import Iterator
from types import FrameType

import uvicorn

from partitiond.proxy.listening.opening import BACKLOG


class QuietServer(uvicorn.Server):
    """A server that leaves signals to us, because there are two servers in one process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Never called."""


def end_server(server: QuietServer, seconds: float) -> None:
    """Stop listening, and give open connections this many seconds to finish."""
    server.config.timeout_graceful_shutdown = max(1, round(seconds))
    server.should_exit = True


def quiet_config(app: object) -> uvicorn.Config:
    """Return the configuration that both listeners share."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
    )
