"""Connections are handed over if files run out; the log says so now and then, none is lost."""

import contextlib
import itertools
import os
import resource
import socket
import time
from collections.abc import Iterator

import pytest

from partitiond.proxy.listening.acceptor import Accepting, Handoff, Intake, hand_on
from tests.machine import until


@contextlib.contextmanager
def no_file_left() -> Iterator[None]:
    """This process can open nothing more."""
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Listener(socket.socket):
    """A real one that notes when it was asked."""

    asked: list[float]

    def accept(self) -> tuple[socket.socket, object]:
        self.asked.append(time.monotonic())
        return super().accept()


@pytest.fixture
def worker() -> Iterator[Handoff]:
    handoff = Handoff(lambda: 0)
    yield handoff
    handoff.close()
    handoff.workers_end.close()


class Taken:
    """What a worker took."""

    def __init__(self, worker: Handoff) -> None:
        self.connections: list[socket.socket] = []
        self.lost = 0
        self.intake = Intake(worker.workers_end, self.connections.append, self._lose)

    def _lose(self) -> None:
        self.lost += 1

    def close(self) -> None:
        self.intake.stop()
        for connection in self.connections:
            connection.close()


async def test_without_a_file_left_connections_wait_and_it_is_said_once(
    worker: Handoff, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(socket.AF_INET)
    listener.asked = []
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.setblocking(False)
    acceptor = Accepting(listener, lambda one: hand_on([worker], one), whose=" of b")
    with socket.create_connection(listener.getsockname()) as client:
        with no_file_left():
            await until(lambda: len(listener.asked) >= 5)
            assert worker.handed == 0
            assert [record.exc_info for record in caplog.records] == [None]
            assert "connections of b cannot be accepted" in caplog.text
            assert "max_connections" in caplog.text
        await until(lambda: worker.handed == 1)
        taken = Taken(worker)
        taken.intake.take()
        (connection,) = taken.connections
        client.sendall(b"x")
        connection.setblocking(True)
        assert connection.recv(1) == b"x"
        connection.close()
    pauses = [later - sooner for sooner, later in itertools.pairwise(listener.asked[:5])]
    assert pauses[3] >= 0.075, "it does not back off"
    assert acceptor._pause_seconds < 0.02, "pauses begin anew after a connection"
    acceptor.close()


async def test_a_connection_that_nobody_can_take_goes_to_the_first_that_can(
    worker: Handoff,
) -> None:
    """Though no other connection comes."""
    takers: list[Handoff] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        accepting = Accepting(listener, lambda connection: hand_on(takers, connection))
        with socket.create_connection(listener.getsockname()):
            await until(lambda: accepting._in_hand is not None)
            takers.append(worker)
            await until(lambda: worker.handed == 1)
        accepting.close()


async def test_what_a_worker_has_no_file_for_waits_for_it(
    worker: Handoff, caplog: pytest.LogCaptureFixture
) -> None:
    taken = Taken(worker)
    with socket.socket() as one, socket.socket() as another:
        assert worker.hand(one)
        assert worker.hand(another)
    with no_file_left():
        taken.intake.take()
        taken.intake.take()
        assert (taken.connections, taken.lost) == ([], 0)
    assert "too many open files" in caplog.text
    await until(lambda: len(taken.connections) == 2)
    assert taken.lost == 0
    taken.close()


async def test_a_handoff_that_was_cut_is_counted_until_the_parent_is_gone(worker: Handoff) -> None:
    """As the kernel cuts it where the last file was taken in between."""
    taken = Taken(worker)
    worker._own.send(b"c")
    with socket.socket() as one:
        assert worker.hand(one)
    worker._own.send(b"c")
    taken.intake.take()
    assert (len(taken.connections), taken.lost) == (1, 2)
    worker._own.send(b"c")
    worker.close()
    taken.intake.take()
    taken.intake.take()
    assert (len(taken.connections), taken.lost) == (1, 3)
    assert worker.workers_end.fileno() < 0
    taken.close()
