"""This process reads no GPU while a GPU changes its mode; reads in the meantime wait."""

import functools
import threading
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from partitiond.core.errors import DeviceError
from partitiond.devices.mig import MigControl
from partitiond.devices.nvml import XidWatch
from partitiond.devices.nvml.session import session
from partitiond.devices.nvml.session_gate import QUIET, SessionGate
from tests.gpu_fixtures import MakeHost


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_change_waits_for_sessions_and_sessions_wait_for_it() -> None:
    quiet, order = SessionGate(), list[str]()
    inside, leave, held, change = (threading.Event() for _ in range(4))

    def look() -> None:
        with quiet.counted():
            inside.set()
            leave.wait(60)
            order.append("looked")

    def alter() -> None:
        with quiet.kept() as alone:
            assert alone
            order.append("changes")
            held.set()
            change.wait(60)
            with quiet.counted():  # its own
                order.append("changed")

    def look_later() -> None:
        with quiet.counted():
            order.append("looked later")

    first = started(look)
    assert inside.wait(60)
    second = started(alter)
    leave.set()
    assert held.wait(60)
    assert quiet.wanted
    third = started(look_later)
    change.set()
    for thread in (first, second, third):
        thread.join(60)
    assert order == ["looked", "changes", "changed", "looked later"]
    assert not quiet.wanted


def test_changes_follow_each_other_and_an_error_ends_one() -> None:
    quiet, order = SessionGate(), list[int]()

    def alter(number: int) -> None:
        with quiet.kept():
            order.append(number)
            order.append(number)

    def fail() -> None:
        with quiet.kept():
            threads.extend(started(functools.partial(alter, number)) for number in range(4))
            raise RuntimeError

    threads = list[threading.Thread]()
    with pytest.raises(RuntimeError):
        fail()
    for thread in threads:
        thread.join(60)
    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == [0, 1, 2, 3]
    assert not quiet.wanted


def test_a_session_that_does_not_end_keeps_no_change_from_being_tried() -> None:
    quiet = SessionGate(leave_seconds=0.05, enter_seconds=0.05)
    inside, leave = threading.Event(), threading.Event()

    def hang() -> None:
        with quiet.counted():
            inside.set()
            leave.wait(60)

    thread = started(hang)
    assert inside.wait(60)
    with quiet.kept() as alone:
        assert not alone
        looked = started(lambda: quiet.counted().__enter__())
        looked.join(60)  # nor for ever a look, by a change that does not end
    leave.set()
    thread.join(60)


def test_a_session_within_a_session_does_not_wait_for_a_change() -> None:
    quiet, seen = SessionGate(leave_seconds=0.0, enter_seconds=120.0), list[bool]()
    held, nested = threading.Event(), threading.Event()

    def alter() -> None:
        with quiet.kept():
            held.set()
            seen.append(nested.wait(60))

    with quiet.counted():
        thread = started(alter)
        assert held.wait(60)
        with quiet.counted():
            nested.set()
    thread.join(60)
    assert seen == [True]


async def test_the_watch_lets_go_and_listens_again_also_after_a_mode_that_is_refused(
    make_host: MakeHost, tmp_path: Path
) -> None:
    host = make_host(name="a100-80gb-x8")
    watch = XidWatch(wait_ms=50)
    watch.start()
    try:
        assert watch.listening.wait(60)
        with QUIET.kept() as alone:
            assert alone
            assert not watch.listening.is_set()
            with session(), pytest.raises(pynvml.NVMLError):
                pynvml.nvmlDeviceGetHandleByIndex(99)
        assert watch.listening.wait(60)
        host.fail("nvmlDeviceSetMigMode", pynvml.NVML_ERROR_UNKNOWN, times=-1)
        with pytest.raises(DeviceError):
            await MigControl("mode", tmp_path / "none").set_mode(host.uuids()[0], on=True)
        assert not QUIET.wanted
        assert watch.listening.wait(60)
    finally:
        watch.close()
