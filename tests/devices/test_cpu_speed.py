"""The CPU's speed is measured once, kept in the state folder, and known from then on."""

import concurrent.futures
import dataclasses
import json
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import CpuFigures, Device
from partitiond.devices.bandwidth import CACHE_NAME
from partitiond.devices.cpu_speed import CpuSpeed
from partitiond.serde import to_jsonable
from tests.devices.fake import fake_cpu

CPU = fake_cpu(cores=2)


def keep(state_dir: Path, device: Device = CPU) -> CpuFigures:
    """Figures as a measurement leaves them in the state folder."""
    cores = len(device.cores)
    figures = CpuFigures(device.name, cores, 1, 1e10, 2e10, 1e11, 2e11, False, "2026-01-01")
    text = json.dumps({device.hardware: to_jsonable(figures)})
    (state_dir / CACHE_NAME).write_text(text)
    return figures


def test_what_was_kept_is_known_once_it_was_asked_for(tmp_path: Path) -> None:
    figures, speed = keep(tmp_path), CpuSpeed(tmp_path)
    assert speed.kept(CPU) is None
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(speed, [CPU] * 16)) == {figures}
    assert speed.kept(CPU) == figures
    assert speed.kept(fake_cpu(cores=1)) is None, "another CPU is not taken for this one"
    (tmp_path / CACHE_NAME).unlink()
    assert speed(CPU) == figures


def test_a_core_that_cannot_be_measured_is_an_error_and_nothing_is_kept(tmp_path: Path) -> None:
    speed, missing = CpuSpeed(tmp_path), dataclasses.replace(CPU, cores=(1_000_000,))
    with pytest.raises(DeviceError, match="could not be measured"):
        speed(missing)
    assert speed.kept(missing) is None
