"""Telemetry keeps its contract on this host's CPU and on a simulated GPU."""

import asyncio
import dataclasses
import os
import sys

import pytest

from partitiond.core.profile.points import Telemetry
from partitiond.devices.cpu import discover_cpu
from partitiond.devices.gpus.discovery import GpuDiscovery
from partitiond.devices.telemetry import HostTelemetry
from partitiond.devices.telemetry.exposure import FIGURES
from partitiond.serde import from_json, to_json
from partitiond.simulated.gpus import GpuDescription
from tests.gpu_fixtures import MakeHost, make_host

__all__ = ["make_host"]


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
async def test_a_window_tells_figures_within_their_ranges(kind: str, make_host: MakeHost) -> None:
    """Windows may overlap; an engine that is gone breaks none, and without engines no CPU time is
    theirs.
    """
    source, device = HostTelemetry(), discover_cpu()
    if kind == "gpu":
        make_host(GpuDescription("h200-141gb"))
        source, device = HostTelemetry(period_seconds=0.02), GpuDiscovery().discover([0])[0].device
    engine = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORK, start_new_session=True,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    windows = [await source.open(device, (engine.pid,)) for _ in range(3)]
    assert engine.stdin is not None
    assert engine.stdout is not None
    engine.stdin.write(b"\n")
    assert await engine.stdout.readline() == b"done\n"
    told = await windows[0].close()
    engine.kill()
    await engine.communicate()
    for window in windows[1:]:
        await window.close()
    assert told is not None
    assert told.source
    for name in FIGURES:
        value = getattr(told, name)
        assert value is None or value >= 0
    for name in ("gpu_util", "sm_activity", "sm_occupancy", "dram_activity"):
        assert (getattr(told, name) or 0.0) <= 1
    assert 0 < (told.cores_used or 0.0) <= (os.cpu_count() or 1) + 1
    assert (told.power_watts is None) == (told.energy_joules is None)
    assert from_json(Telemetry, to_json(told)) == told
    assert {f.name for f in dataclasses.fields(told)} == {"source", *FIGURES}
    alone = await (await source.open(device, ())).close()
    assert alone is None or alone.cores_used is None


WORK = """
import sys, time
for _ in sys.stdin:
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    print("done", flush=True)
"""
