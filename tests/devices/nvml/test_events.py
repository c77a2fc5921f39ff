"""Xid messages are heard, even across failures of the library and of GPUs."""

import contextlib
import queue
from collections.abc import Iterator

import pynvml
import pytest

from partitiond.core.hardware.health import XidEvent
from partitiond.devices.nvml.events import MAX_KEPT, XidWatch
from partitiond.simulated.gpus.description import GpuDescription
from partitiond.simulated.gpus.host import SimulatedHost
from tests.gpu_fixtures import MakeHost
from tests.machine import wait_for

DEADLINE_SECONDS = 60.0


class Watched:
    """A watch, and what it hears."""

    def __init__(self) -> None:
        self.heard: queue.Queue[XidEvent] = queue.Queue()
        self.watch = XidWatch(self.heard.put, wait_ms=50, retry_seconds=0.05)

    def next(self) -> XidEvent:
        return self.heard.get(timeout=DEADLINE_SECONDS)

    def until_heard(self, host: SimulatedHost, uuid: str, code: int) -> XidEvent:
        """Events while nobody listens are lost, as with a real driver: say it again."""

        def said_again() -> XidEvent | None:
            host.xid(uuid, code)
            with contextlib.suppress(queue.Empty):
                return self.heard.get_nowait()
            return None

        return wait_for("the event", said_again)

    def listen(self) -> None:
        self.watch.start()
        assert self.watch.listening.wait(DEADLINE_SECONDS)


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.watch.close()


@pytest.fixture
def host(make_host: MakeHost) -> SimulatedHost:
    return make_host(GpuDescription("a100-80gb", count=2))


def test_messages_are_heard_with_their_gpu_and_the_last_are_kept(
    host: SimulatedHost, watched: Watched
) -> None:
    first, second = host.uuids()
    watched.listen()
    host.xid(second, 63)
    host.xid(first, 13)
    heard = {(e.device_id, e.code) for e in (watched.next(), watched.next())}
    assert heard == {(second, 63), (first, 13)}
    assert [event.code for event in watched.watch.xids(second)] == [63]
    watched.watch.forget(second)
    assert watched.watch.xids(second) == ()
    for number in range(MAX_KEPT + 5):
        host.xid(first, 13 if number % 2 else 31)
        watched.next()
    assert len(watched.watch.xids(first)) == MAX_KEPT


def test_a_gpu_that_falls_off_the_bus_is_heard_once_it_is_back_and_the_other_meanwhile(
    host: SimulatedHost, watched: Watched
) -> None:
    first, second = host.uuids()
    host.lose(second)  # before anybody listens
    watched.listen()
    host.lose(first)
    assert (watched.next().device_id, watched.watch.xids(first)[0].code) == (first, 79)
    host.restore(second)
    assert watched.until_heard(host, second, 31).device_id == second


@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("nvmlEventSetWait*", pynvml.NVML_ERROR_GPU_IS_LOST),
        ("nvmlEventSetWait*", pynvml.NVML_ERROR_UNKNOWN),
        ("nvmlEventSetCreate", pynvml.NVML_ERROR_UNKNOWN),
        ("nvmlInit*", pynvml.NVML_ERROR_DRIVER_NOT_LOADED),
        ("nvmlDeviceGetCount*", pynvml.NVML_ERROR_UNKNOWN),
        ("nvmlDeviceRegisterEvents", pynvml.NVML_ERROR_UNKNOWN),
    ],
)
def test_a_library_that_refuses_is_asked_again(
    host: SimulatedHost, watched: Watched, function: str, code: int
) -> None:
    host.fail(function, code, times=3)
    watched.watch.start()
    assert watched.until_heard(host, host.uuids()[0], 94).code == 94


def test_without_a_driver_it_waits_and_ends_when_told(watched: Watched) -> None:
    watched.watch.start()
    watched.watch.close()
    assert not watched.watch.listening.is_set()
