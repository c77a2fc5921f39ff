"""Two models are measured together only where plans may run them together."""

import dataclasses
from pathlib import Path

import pytest

from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.units import GIB
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.platform.clock import SystemClock
from partitiond.profiler.pairs.arrangement import DeviceShare, Replica
from partitiond.profiler.pairs.pairs import measure_pair, require_one_group
from partitiond.profiler.pairs.side_by_side import WindowPlan
from partitiond.profiler.sweep.bench import Bench
from tests.profiler.pairs.test_replication import device, model


def pair(folder: Path, *groups: str) -> tuple[Replica, Replica]:
    """Two models of these isolation groups."""
    share = DeviceShare((0,), 4 * GIB, 1, mode=SharingMode.MPS)
    plain = model(folder)
    first, second = (
        dataclasses.replace(plain, spec=dataclasses.replace(plain.spec, isolation_group=group))
        for group in groups
    )
    return Replica(first, share), Replica(second, share)


async def test_models_of_two_isolation_groups_are_not_measured_under_one_mps_daemon(
    tmp_path: Path,
) -> None:
    lab = Bench(
        ProcessEngineRunner(tmp_path / "run", None), SystemClock(), device(), None, 60.0, 5.0, None
    )
    shared = ((0.5, None), (0.5, None))
    with pytest.raises(InputError, match="an MPS daemon serves one group") as refused:
        await measure_pair(
            lab,
            SharingMode.MPS,
            pair(tmp_path, "a", "b"),
            shared,
            plan=WindowPlan(1, 30.0),
            tell=lambda _: None,
        )
    assert "another sharing mode" in refused.value.hint


def test_other_modes_and_one_group_are_measured(tmp_path: Path) -> None:
    require_one_group(SharingMode.MPS, pair(tmp_path, "a", "a"))
    require_one_group(SharingMode.MEMORY, pair(tmp_path, "a", "b"))
    first, _ = pair(tmp_path, "a", "b")
    share = first.share.partition_on(device(), first.model.spec.isolation_group)
    assert getattr(share, "isolation_group", None) == "a"
