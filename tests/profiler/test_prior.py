"""The search on a CPU begins from figures of this host, measured before an engine runs."""

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import CpuFigures, Device, DeviceKind
from partitiond.core.profile.jobs import Progress
from partitiond.core.units import GIB
from partitiond.ports import ProfileRequest
from partitiond.profiler.runner import Profiler, prior_of
from partitiond.profiler.sweep.launch import plan_launch

RequestOf = Callable[..., ProfileRequest]
SLOW = CpuFigures("Test CPU", 2, 1, 1e9, 2e9, 1e10, 2e10, False, "2026-01-01T00:00:00+00:00")


def test_a_slower_cpu_is_expected_to_be_slower(request_of: RequestOf) -> None:
    asked = request_of()
    planned = plan_launch(asked, "p")
    assumed, measured = prior_of(asked, planned), prior_of(asked, planned, SLOW)
    assert assumed is not None
    assert measured is not None
    assert [batch for batch, _ in measured] == [batch for batch, _ in assumed]
    assert all(slow < fast for (_, slow), (_, fast) in zip(measured, assumed, strict=True))


async def test_the_cpu_is_measured_in_a_thread_before_an_engine_starts(
    engines: Any, request_of: RequestOf
) -> None:
    seen: list[tuple[int, bool]] = []

    def figures(device: Device) -> CpuFigures:
        in_loop = threading.current_thread() is threading.main_thread()
        seen.append((len(engines.engines), in_loop))
        return SLOW

    told: list[Progress] = []
    profile = await Profiler(engines, cpu_figures=figures).run(request_of(max_batch=2), told.append)
    assert seen == [(0, False)]
    assert told[0].message == "measuring what the CPU reaches"
    assert not any("assumed" in note for note in profile.provenance.notes)


async def test_a_cpu_that_cannot_be_measured_costs_the_profile_a_note(
    engines: Any, request_of: RequestOf
) -> None:
    def figures(device: Device) -> CpuFigures:
        raise DeviceError("measuring core 1 took longer than 60 s.", hint="Try again.")

    profiler = Profiler(engines, cpu_figures=figures)
    profile = await profiler.run(request_of(max_batch=2), lambda _: None)
    wanted = "the search began from assumed CPU figures: measuring core 1 took longer than 60 s."
    assert wanted in profile.provenance.notes
    assert profile.points


async def test_neither_a_gpu_nor_a_simulated_engine_asks_for_the_cpus_speed(
    engines: Any, request_of: RequestOf
) -> None:
    def figures(device: Device) -> CpuFigures:
        raise AssertionError("nobody needs it")

    asked = request_of(max_batch=2)
    spec = dataclasses.replace(asked.model.spec, engine_kind="simulated")
    simulated = dataclasses.replace(asked, model=dataclasses.replace(asked.model, spec=spec))
    gpu = dataclasses.replace(asked.device, kind=DeviceKind.GPU, hardware="a100-80gb")
    on_gpu = dataclasses.replace(asked, device=gpu, memory_bytes=12 * GIB)
    for request in (simulated, on_gpu):
        await Profiler(engines, cpu_figures=figures).run(request, lambda _: None)
