"""A client reaches the socket that an engine made, and nothing that lies behind a link of its."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.engines.vllm.unix_http import ExchangeError, NotListeningError, exchange
from partitiond.platform.unix_socket import NoSocketError, socket_address
from partitiond.proxy.dispatch.replicas import listens
from partitiond.proxy.engine.upstream import ConnectionPool
from partitiond.proxy.request.errors import AttemptError


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Path]:
    """A folder in which a socket of ours, of the daemon or another engine, takes connections."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "secret.sock"))
        listener.listen()
        listener.setblocking(False)
        yield folder
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The link of a run folder, which names a socket in the engine's folder."""
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine.sock").symlink_to(tmp_path / "engine/engine.sock")
    return tmp_path / "engine.sock"


def put(what: str, place: Path, target: Path) -> None:
    match what:
        case "link":
            place.symlink_to(target)
        case "fifo":
            os.mkfifo(place)
        case "file":
            place.write_text("")
        case "folder":
            place.mkdir()


@pytest.mark.parametrize("what", ["link", "fifo", "file", "folder"])
async def test_nobody_connects_to_it(own: Path, theirs: Path, what: str) -> None:
    put(what, own.parent / "engine/engine.sock", theirs / "secret.sock")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no blocking Path in a coroutine
    with pytest.raises(NoSocketError, match="no socket"), socket_address(str(own)):
        pass
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert not listens(str(own))
    with pytest.raises(ExchangeError, match="put something else there") as refused:
        await exchange(str(own), "GET", "/health", timeout_seconds=5)
    assert not isinstance(refused.value, NotListeningError)
    pool = ConnectionPool(str(own))
    with pytest.raises(AttemptError):
        await pool.connect()


@pytest.mark.parametrize("direct", [True, False])
def test_the_socket_itself_is_reached_and_stays_the_same(own: Path, direct: bool) -> None:
    path = own.readlink()
    with pytest.raises(FileNotFoundError), socket_address(str(own)):
        pass
    assert not listens(str(own))
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(path))
        with socket_address(str(own)) as address, pytest.raises(ConnectionRefusedError):
            client.connect(address)
        assert not listens(str(own))
        listener.listen()
        with socket_address(str(path if direct else own)) as address:
            path.unlink()
            path.symlink_to("/nowhere")
            client.connect(address)
        listener.accept()[0].close()
