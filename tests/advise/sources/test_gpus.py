"""Whose process is on which GPU, and what NVML says of a window."""

import pytest

from partitiond.advise.sources.gpus import GpuWatch, OnGpu, placed, processes_on
from partitiond.core.units import GIB
from partitiond.devices.fake_nvml import FakeGpu, FakeNvml

ABOVE = {11: (11, 10, 1), 21: (21, 20, 1), 22: (22, 20, 1), 30: (30, 1), 10: (10, 1)}
LISTENING = {8000: 10, 8001: 20}
URLS = ("http://127.0.0.1:8000", "http://localhost:8001")


def parents(pid: int) -> tuple[int, ...]:
    return ABOVE.get(pid, (pid,))


def test_an_engine_is_where_the_children_of_its_server_are() -> None:
    on_gpu = {
        "g0": [OnGpu(11, 30 * GIB)],
        "g1": [OnGpu(21, 20 * GIB), OnGpu(30, 5 * GIB)],
        "g2": [OnGpu(22, 20 * GIB), OnGpu(22, 20 * GIB)],
        "g3": [],
    }
    on, foreign = placed(on_gpu, URLS, LISTENING, parents)
    assert on == {URLS[0]: ("g0",), URLS[1]: ("g1", "g2")}
    assert foreign == {"g1": 5 * GIB}


def test_memory_is_nobodys_only_when_every_engine_was_found() -> None:
    on_gpu = {"g0": [OnGpu(11, 30 * GIB)], "g1": [OnGpu(99, 20 * GIB)]}
    on, foreign = placed(on_gpu, (*URLS, "http://far:8000"), LISTENING, parents)
    assert on == {URLS[0]: ("g0",)}
    assert foreign == {}


def test_an_engine_that_is_the_server_itself() -> None:
    on, _ = placed({"g0": [OnGpu(10, None)]}, URLS[:1], LISTENING, parents)
    assert on == {URLS[0]: ("g0",)}


def test_a_watch_over_two_gpus() -> None:
    gpus = [
        FakeGpu(
            uuid="GPU-a",
            gpu_util=0.9,
            used_bytes=100 * GIB,
            processes=((11, 60 * GIB), (21, 36 * GIB), (30, 4 * GIB)),
        ),
        FakeGpu(uuid="GPU-b", gpu_util=0.0),
    ]
    with FakeNvml(gpus).installed():
        watch = GpuWatch((0, 1), parents=parents, listeners=lambda: LISTENING)
        devices = watch.open()
        today = watch.close(URLS)

    assert [d.id for d in devices] == ["GPU-a", "GPU-b"]
    assert today.busy["GPU-a"] == pytest.approx(0.9)
    assert today.busy["GPU-b"] == 0
    assert today.on == {URLS[0]: ("GPU-a",), URLS[1]: ("GPU-a",)}
    # What the engines hold is free for a plan of the same engines; what others hold is not.
    assert today.devices[1].free_bytes - today.devices[0].free_bytes == 4 * GIB
    assert "GPU-a" in today.notes[0]


def test_a_driver_that_does_not_tell_processes_is_no_error() -> None:
    refusing = FakeGpu(refuses={"nvmlDeviceGetComputeRunningProcesses_v3": 4})
    with FakeNvml([refusing]).installed():
        assert processes_on(refusing.uuid) == ()


def test_without_a_driver_there_is_nothing_to_watch() -> None:
    watch = GpuWatch((0,), listeners=dict)
    assert watch.open() == ()
    assert watch.close(URLS).devices == ()
    assert processes_on("GPU-none") == ()
