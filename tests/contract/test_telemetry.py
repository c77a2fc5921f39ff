"""Every telemetry source keeps the contract: the fake, this host's CPU, a simulated GPU."""

import asyncio
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from partitiond.core.hardware.kinds import Device
from partitiond.core.profile.points import Telemetry
from partitiond.devices.cpu import discover_cpu
from partitiond.devices.fake import fake_cpu
from partitiond.devices.gpus.discovery import discover_gpus
from partitiond.devices.telemetry import HostTelemetry
from partitiond.devices.telemetry.exposure import FIGURES
from partitiond.devices.telemetry.fake import FakeTelemetry
from partitiond.ports.telemetry import TelemetrySource
from partitiond.serde import from_json, to_json
from partitiond.simulated.gpus import GpuDescription
from tests.gpu_fixtures import MakeHost, make_host

__all__ = ["make_host"]

SHARES = ("gpu_util", "sm_activity", "sm_occupancy", "dram_activity")


@pytest.fixture(params=["fake", "cpu", "gpu"])
def source_and_device(
    request: pytest.FixtureRequest, make_host: MakeHost
) -> Iterator[tuple[TelemetrySource, Device]]:
    if request.param == "fake":
        says = Telemetry("fake", gpu_util=0.5, power_watts=10.0, energy_joules=1.0, cores_used=0.5)
        yield FakeTelemetry(says), fake_cpu()
    elif request.param == "cpu":
        yield HostTelemetry(), discover_cpu()
    else:
        make_host(GpuDescription("h200-141gb"))
        yield HostTelemetry(period_seconds=0.02), discover_gpus([0])[0]


Source = tuple[TelemetrySource, Device]

WORK = """
import sys, time
for _ in sys.stdin:
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    print("done", flush=True)
"""


@pytest.fixture
def session() -> Iterator[subprocess.Popen[bytes]]:
    """The leader of a session that computes for 0.1 s each time it is told to, and then says so."""
    with subprocess.Popen(
        [sys.executable, "-c", WORK],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        yield process
        process.kill()


async def test_a_window_tells_figures_within_their_ranges(
    source_and_device: Source, session: subprocess.Popen[bytes]
) -> None:
    source, device = source_and_device
    assert session.stdin is not None
    assert session.stdout is not None
    window = await source.open(device, (session.pid,))
    session.stdin.write(b"\n")
    session.stdin.flush()
    assert await asyncio.to_thread(session.stdout.readline) == b"done\n"
    told = await window.close()
    assert told is not None
    assert told.source
    for name in FIGURES:
        value = getattr(told, name)
        assert value is None or value >= 0
    for name in SHARES:
        assert (getattr(told, name) or 0.0) <= 1
    assert told.cores_used is not None
    assert 0 < told.cores_used <= (os.cpu_count() or 1) + 1
    assert (told.power_watts is None) == (told.energy_joules is None)
    assert from_json(Telemetry, to_json(told)) == told
    assert {f.name for f in dataclasses.fields(told)} == {"source", *FIGURES}


async def test_windows_may_overlap_and_without_engines_no_cpu_time_is_theirs(
    source_and_device: Source, session: subprocess.Popen[bytes]
) -> None:
    source, device = source_and_device
    windows = [await source.open(device, (session.pid,)) for _ in range(3)]
    for window in windows:
        assert await window.close() is not None
    told = await (await source.open(device, ())).close()
    assert told is None or told.cores_used is None


async def test_engines_that_are_gone_break_no_window(source_and_device: Source) -> None:
    source, device = source_and_device
    gone = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)  # noqa: ASYNC220
    window = await source.open(device, (gone.pid,))
    gone.wait()
    await window.close()
