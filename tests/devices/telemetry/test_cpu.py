"""CPU telemetry gives time of sessions and energy of packages, here and on described hosts."""

import asyncio
import os
import subprocess
import sys
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
for _ in range(3):
    if os.fork() == 0:
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        os._exit(0)
    os.wait()
print("done", flush=True)
sys.stdin.read()
"""


def test_children_that_ended_count() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILDREN],
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        assert cpu_seconds([leader.pid]) >= 0.25
        leader.communicate(b"")


def test_a_child_with_a_session_of_its_own_counts() -> None:
    nested = "import subprocess, sys; subprocess.run(sys.argv[1:], start_new_session=True)"
    burn = "import time\nend=time.process_time()+0.35\nwhile time.process_time()<end: pass\nprint(1,flush=True)\ntime.sleep(60)"  # noqa: E501
    with subprocess.Popen(
        [sys.executable, "-c", nested, sys.executable, "-c", burn],
        start_new_session=True,
        stdout=subprocess.PIPE,
    ) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        assert cpu_seconds([leader.pid]) >= 0.3
        for pid in _children(leader.pid):
            os.kill(pid, 9)


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_no_sessions_cost_nothing_and_have_no_time() -> None:
    assert cpu_seconds([]) == 0.0


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def rapl_host(root: Path) -> Path:
    """Two packages, with zones that overlap them, and an empty /proc."""
    zones = root / "sys/class/powercap"
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
    (root / "proc").mkdir()
    return zones


def test_only_packages_are_counted(tmp_path: Path) -> None:
    zones = rapl_host(tmp_path)
    found = find_counters(tmp_path)
    assert found.source == "rapl"
    assert [c.path.parent.name for c in found.counters] == ["intel-rapl:0", "intel-rapl:1"]
    meter = EnergyMeter(found.counters)
    (zones / "intel-rapl:0/energy_uj").write_text("50")  # wrapped around
    (zones / "intel-rapl:1/energy_uj").write_text("700")
    meter.update()
    assert meter.joules() == pytest.approx((1_000_000 - 50 + 500) * 1e-6)


async def test_energy_and_power_of_a_cpu_window(tmp_path: Path) -> None:
    zones = rapl_host(tmp_path)
    now = 5.0
    source = HostTelemetry(root=tmp_path, clock=lambda: now)
    window = await source.open(fake_cpu(), ())
    (zones / "intel-rapl:0/energy_uj").write_text("500100")
    now = 7.0
    told = await window.close()
    assert told is not None
    assert told.source == "rapl"
    assert told.energy_joules == pytest.approx(0.5)
    assert told.power_watts == pytest.approx(0.25)


def test_sockets_of_amd_energy(tmp_path: Path) -> None:
    monitor = tmp_path / "sys/class/hwmon/hwmon3"
    write(monitor / "name", "amd_energy\n")
    write(monitor / "energy1_label", "Ecore000\n")
    write(monitor / "energy1_input", "5\n")
    write(monitor / "energy9_label", "Esocket0\n")
    write(monitor / "energy9_input", "7\n")
    found = find_counters(tmp_path)
    assert found.source == "hwmon"
    assert [counter.path.name for counter in found.counters] == ["energy9_input"]


def test_a_package_that_cannot_be_read_is_a_reason_and_no_figure(tmp_path: Path) -> None:
    zones = rapl_host(tmp_path)
    (zones / "intel-rapl:1/energy_uj").unlink()
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


@given(
    steps=st.lists(st.integers(0, 999), max_size=30),
    start=st.integers(0, 999),
)
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


def test_a_counter_that_goes_away_is_no_figure(tmp_path: Path) -> None:
    path = tmp_path / "energy_uj"
    path.write_text("5")
    meter = EnergyMeter([Counter(path, 1000)])
    path.unlink()
    meter.update()
    assert meter.joules() is None


async def test_cores_used_is_cpu_time_by_wall_time() -> None:
    """Against the process's own account of itself, and a clock that the test sets."""
    now = 0.0
    code = (
        "import time,sys\n"
        "print(1,flush=True)\n"
        "sys.stdin.readline()\n"
        "a=time.process_time()\n"
        "while time.process_time()-a<0.4: pass\n"
        "print(time.process_time()-a,flush=True)\n"
        "sys.stdin.readline()\n"
    )
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", code],
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as leader:
        assert leader.stdin is not None
        assert leader.stdout is not None
        leader.stdout.readline()
        window = await HostTelemetry(clock=lambda: now).open(fake_cpu(), (leader.pid,))
        leader.stdin.write("\n")
        leader.stdin.flush()
        burned = float(await asyncio.to_thread(leader.stdout.readline))
        now = 10.0
        told = await window.close()
        leader.communicate("\n")
    assert told is not None
    assert told.cores_used is not None
    assert told.cores_used == pytest.approx(burned / 10, rel=0.35)
