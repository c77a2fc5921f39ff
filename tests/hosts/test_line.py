"""A message over a Unix socket is done in its time, or not at all."""

from pathlib import Path

import pytest

from partitiond.core.errors import HostSilentError
from partitiond.hosts.line import SocketCarrier, serve_line


async def test_a_message_whose_moment_has_passed_is_not_done(tmp_path: Path) -> None:
    """As one that waited for a program that was stopped: its sender has given it up."""
    done: list[bytes] = []

    async def answer(_host: str, _seconds: float, body: bytes) -> bytes:
        done.append(body)
        return body

    path = tmp_path / "line.sock"
    server = await serve_line(path, answer)
    with pytest.raises(HostSilentError):
        await SocketCarrier(path, "two", seconds=-1.0).call(b"late")
    assert await SocketCarrier(path, "two", seconds=5.0).call(b"in time") == b"in time"
    assert done == [b"in time"]
    server.close()
