"""CPU telemetry gives time of sessions and energy of packages, here and on described hosts."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.devices.fake import fake_cpu
from partitiond.devices.telemetry import HostTelemetry
from partitiond.devices.telemetry.cpu_time import cpu_seconds
from partitiond.devices.telemetry.energy import Counter, EnergyMeter, find_counters

CHILDREN = """
import os, sys, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
for own_session in (False, False, True):
    done, writes = os.pipe()
    if os.fork() == 0:
        if own_session:
            os.setsid()
        burn(0.1)
        os.write(writes, b"1")
        os.read(0, 1) if own_session else None
        os._exit(0)
    os.read(done, 1)
    own_session or os.wait()
print("done", flush=True)
sys.stdin.read()
"""
"""Two children that have ended, and one with a session of its own."""

BURN = """
import sys, time
print(1, flush=True)
sys.stdin.readline()
begun = time.process_time()
while time.process_time() - begun < 0.4:
    pass
print(time.process_time() - begun, flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def leader(script: str) -> Iterator[subprocess.Popen[str]]:
    """Of a session, once it has said its first line."""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as found:  # fmt: skip
        assert found.stdout is not None
        found.stdout.readline()
        yield found
        found.communicate("\n")


def test_children_that_ended_count_and_those_with_a_session_of_their_own() -> None:
    with leader(CHILDREN) as found:
        assert cpu_seconds([found.pid]) >= 0.28
        own = Path(f"/proc/{found.pid}/task/{found.pid}/children").read_text().split()
        assert len(own) == 1
        os.kill(int(own[0]), 9)
    assert cpu_seconds([]) == 0.0


async def test_cores_used_is_cpu_time_by_wall_time() -> None:
    """Against the process's own account of itself, and a clock that the test sets."""
    now = 0.0
    with leader(BURN) as found:
        assert found.stdin is not None
        assert found.stdout is not None
        window = await HostTelemetry(clock=lambda: now).open(fake_cpu(), (found.pid,))
        found.stdin.write("\n")
        found.stdin.flush()
        burned = float(await asyncio.to_thread(found.stdout.readline))
        now = 10.0
        told = await window.close()
    assert told is not None
    assert told.cores_used == pytest.approx(burned / 10, rel=0.35)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def zones(tmp_path: Path) -> Path:
    """Two packages, with zones that overlap them, and an empty /proc."""
    zones = tmp_path / "sys/class/powercap"
    for zone, name, energy in [
        ("intel-rapl:0", "package-0", 100),
        ("intel-rapl:1", "package-1", 200),
        ("intel-rapl:2", "psys", 999),
        ("intel-rapl:0:0", "core", 50),
        ("intel-rapl-mmio:0", "package-0", 100),
    ]:
        write(zones / zone / "name", name + "\n")
        write(zones / zone / "energy_uj", f"{energy}\n")
        write(zones / zone / "max_energy_range_uj", "1000000\n")
    (tmp_path / "proc").mkdir()
    return zones


async def test_only_packages_are_counted_and_one_that_cannot_be_read_is_a_reason(
    tmp_path: Path, zones: Path
) -> None:
    found = find_counters(tmp_path)
    assert found.source == "rapl"
    assert [c.path.parent.name for c in found.counters] == ["intel-rapl:0", "intel-rapl:1"]
    meter = EnergyMeter(found.counters)
    (zones / "intel-rapl:0/energy_uj").write_text("50")  # wrapped around
    (zones / "intel-rapl:1/energy_uj").write_text("700")
    meter.update()
    assert meter.joules() == pytest.approx((1_000_000 - 50 + 500) * 1e-6)
    now = 5.0
    window = await HostTelemetry(root=tmp_path, clock=lambda: now).open(fake_cpu(), ())
    (zones / "intel-rapl:0/energy_uj").write_text("500050")
    now = 7.0
    told = await window.close()
    assert told is not None
    assert told.source == "rapl"
    assert told.energy_joules == pytest.approx(0.5)
    assert told.power_watts == pytest.approx(0.25)
    (zones / "intel-rapl:1/energy_uj").unlink()
    meter.update()
    assert meter.joules() is None
    found = find_counters(tmp_path)
    assert found.counters == ()
    assert "intel-rapl:1" in found.why_not
    assert "root" in found.why_not


async def test_a_host_without_counters_says_so(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    exposure = await HostTelemetry(root=tmp_path).exposure(fake_cpu())
    assert exposure.exposes == ("cores_used",)
    assert set(exposure.missing) == {"power_watts", "energy_joules"}
    assert "no energy counters" in exposure.text()


@given(steps=st.lists(st.integers(0, 999), max_size=30), start=st.integers(0, 999))
def test_energy_is_the_sum_of_steps_whatever_wraps(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], start: int
) -> None:
    path = tmp_path_factory.mktemp("rapl") / "energy_uj"
    path.write_text(str(start))
    meter = EnergyMeter([Counter(path, range_microjoules=1000)])
    total = start
    for step in steps:
        total += step
        path.write_text(str(total % 1000))
        meter.update()
    assert meter.joules() == pytest.approx(sum(steps) * 1e-6)
