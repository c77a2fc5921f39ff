"""The search on a CPU begins from figures of this host, measured before an engine runs."""

import dataclasses
import threading
from typing import Any

import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import CpuFigures, Device, DeviceKind
from partitiond.core.profile.jobs import Progress
from partitiond.core.units import GIB
from partitiond.ports import ProfileRequest
from partitiond.profiler.runner import Profiler, prior_of
from partitiond.profiler.sweep.launch import plan_launch
from tests.profiler.samples import request_of

SLOW = CpuFigures("Test CPU", 2, 1, 1e9, 2e9, 1e10, 2e10, False, "2026-01-01T00:00:00+00:00")


def test_a_slower_cpu_is_expected_to_be_slower() -> None:
    asked = request_of()
    planned = plan_launch(asked, "p")
    assumed, measured = prior_of(asked, planned), prior_of(asked, planned, SLOW)
    assert assumed is not None
    assert measured is not None
    assert [batch for batch, _ in measured] == [batch for batch, _ in assumed]
    assert all(slow < fast for (_, slow), (_, fast) in zip(measured, assumed, strict=True))


@pytest.mark.parametrize("problem", ["", "measuring core 1 took longer than 60 s."])
async def test_the_cpu_is_measured_in_a_thread_before_an_engine_starts(
    engines: Any, problem: str
) -> None:
    """If it cannot be, the profile has a note."""
    seen: list[tuple[int, bool]] = []

    def figures(device: Device) -> CpuFigures:
        in_loop = threading.current_thread() is threading.main_thread()
        seen.append((len(engines.engines), in_loop))
        if problem:
            raise DeviceError(problem, hint="Try again.")
        return SLOW

    told: list[Progress] = []
    profile = await Profiler(engines, cpu_figures=figures).run(request_of(max_batch=2), told.append)
    assert seen == [(0, False)]
    assert told[0].message == "measuring what the CPU reaches"
    assumed = [note for note in profile.provenance.notes if "assumed" in note]
    wanted = f"the search began from assumed CPU figures: {problem}"
    assert assumed == ([wanted] if problem else [])
    assert profile.points


@pytest.mark.parametrize("of", ["gpu", "simulated"])
async def test_neither_a_gpu_nor_a_simulated_engine_asks_for_the_cpus_speed(
    engines: Any, of: str
) -> None:
    def figures(device: Device) -> CpuFigures:
        raise AssertionError("nobody needs it")

    asked: ProfileRequest = request_of(max_batch=2, engine_kind="simulated")
    if of == "gpu":
        asked = request_of(max_batch=2, memory_bytes=12 * GIB)
        gpu = dataclasses.replace(asked.device, kind=DeviceKind.GPU, hardware="a100-80gb")
        asked = dataclasses.replace(asked, device=gpu)
    await Profiler(engines, cpu_figures=figures).run(asked, lambda _: None)
