"""Processes are attributed to their GPUs, and NVML's figures of a window are read."""

import pynvml
import pytest

from partitiond.advise.sources.gpus import GpuWatch, gpus_of, processes_on
from partitiond.core.hardware.device_memory import GpuProcess
from partitiond.core.units import GIB
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.simulated.gpus import GpuDescription
from tests.gpu_fixtures import MakeHost, is_started, make_host

__all__ = ["make_host"]

ABOVE = {11: (11, 10, 1), 21: (21, 20, 1), 22: (22, 20, 1), 30: (30, 1), 10: (10, 1)}
NOBODY = 1 << 22
"""From here on there are no pids (PID_MAX_LIMIT of Linux)."""
LISTENING = {8000: 10, 8001: 20}
URLS = ("http://127.0.0.1:8000", "http://localhost:8001")


def parents(pid: int) -> tuple[int, ...]:
    return ABOVE.get(pid, (pid,))


def far_parents(pid: int) -> tuple[int, ...]:
    return parents(pid - NOBODY)


def test_an_engine_is_where_the_children_of_its_server_are() -> None:
    on_gpu = {
        "g0": [GpuProcess(11, 30 * GIB)],
        "g1": [GpuProcess(21, 20 * GIB), GpuProcess(30, 5 * GIB)],
        "g2": [GpuProcess(22, 20 * GIB), GpuProcess(22, 20 * GIB)],
        "g3": [],
    }
    on, foreign = gpus_of(on_gpu, URLS, LISTENING, parents)
    assert on == {URLS[0]: ("g0",), URLS[1]: ("g1", "g2")}
    assert foreign == {"g1": 5 * GIB}
    on, _ = gpus_of({"g0": [GpuProcess(10, None)]}, URLS[:1], LISTENING, parents)
    assert on == {URLS[0]: ("g0",)}, "the server itself"


def test_memory_is_nobodys_only_when_every_engine_was_found() -> None:
    on_gpu = {"g0": [GpuProcess(11, 30 * GIB)], "g1": [GpuProcess(99, 20 * GIB)]}
    on, foreign = gpus_of(on_gpu, (*URLS, "http://far:8000"), LISTENING, parents)
    assert on == {URLS[0]: ("g0",)}
    assert foreign == {}


def test_a_watch_over_two_gpus(make_host: MakeHost) -> None:
    host = make_host(GpuDescription("h200-141gb", count=2))
    busy, idle = host.uuids()
    host.set_load(busy, gpu_util=0.9)
    # Processes of another container: which pids this machine has does not matter.
    for pid, gib in {11: 60, 21: 36, 30: 4}.items():
        host.add_process(busy, NOBODY + pid, gib * GIB)
    watch = GpuWatch((0, 1), parents=far_parents, listeners=lambda: LISTENING)
    devices = watch.open()
    today = watch.close(URLS)

    assert [d.id for d in devices] == [busy, idle]
    assert today.busy == {busy: pytest.approx(0.9), idle: 0}
    assert today.on == {URLS[0]: (busy,), URLS[1]: (busy,)}
    # What the engines hold is free for a plan of the same engines; what others hold is not.
    assert today.devices[1].free_bytes - today.devices[0].free_bytes == 4 * GIB
    assert busy in today.notes[0]


def test_a_driver_that_does_not_tell_processes(make_host: MakeHost) -> None:
    host = make_host()
    (uuid,) = host.uuids()
    host.add_process(uuid, NOBODY, GIB)
    for code in (
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_UNKNOWN,
    ):
        host.heal()
        assert [p.pid for p in processes_on(uuid, DeadlineCalls())] == [NOBODY]
        host.fail("nvml*RunningProcesses*", code, times=-1)
        assert processes_on(uuid, DeadlineCalls()) == ()
    assert not is_started()


def test_without_a_driver_there_is_nothing_to_watch() -> None:
    watch = GpuWatch((0,), listeners=dict)
    assert watch.open() == ()
    assert watch.close(URLS).devices == ()
    assert processes_on("GPU-none", DeadlineCalls()) == ()
