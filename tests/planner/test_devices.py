"""The checker refuses plans that a device cannot hold."""

import dataclasses

import pytest

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import (
    MemoryShare,
    MigSlice,
    MpsShare,
    Partition,
    PartitionSize,
    WholeDevice,
)
from partitiond.core.model.spec import Isolation
from partitiond.core.plan.record import Candidate, ModelDemand, Placement
from partitiond.core.units import GIB, Bytes
from partitiond.planner.check.devices import check_device
from tests.planner.build import gpu, point, want

EVERY = (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG)
Cut = tuple[str, int, int]


def device(**changes: object) -> Device:
    """An A100 80GB that allows every mode."""
    return dataclasses.replace(gpu(modes=EVERY), **changes)  # type: ignore[arg-type]


def placed(partition: Partition, number: int = 1, gib: float = 8) -> Placement:
    """A replica in a partition, at a point that was made for it."""
    mode = SharingMode(partition.mode)
    name = partition.mig_profile if isinstance(partition, MigSlice) else ""
    sm = partition.sm_percent if isinstance(partition, MpsShare) else 100
    candidate: Candidate = dataclasses.replace(
        point("m", 1, gib, mode=mode), size=PartitionSize(mode, 1, sm, name)
    )
    return Placement(f"m-{number}", "m", "gpu-0", partition, candidate)


def slices(*cuts: Cut, gib: float = 8) -> tuple[Placement, ...]:
    """Replicas in GPU instances: MIG profile, first slice, slices."""
    memory = Bytes(int(gib * GIB))
    return tuple(
        placed(MigSlice("gpu-0", memory, name, start, size), n, gib)
        for n, (name, start, size) in enumerate(cuts, start=1)
    )


def said(
    there: Device,
    here: tuple[Placement, ...],
    isolation: Isolation = Isolation.SHARED,
) -> list[str]:
    """What is wrong."""
    demands: dict[str, ModelDemand] = {"m": want("m", isolation=isolation)}
    return list(check_device(there, here, demands, 1.0))


@pytest.mark.parametrize(
    "cuts",
    [
        [("3g.40gb", 0, 4), ("3g.40gb", 4, 4)],
        [("1g.10gb", n, 1) for n in range(7)],
        [("1g.20gb", n, 2) for n in (0, 2, 4, 6)],
        [("4g.40gb", 0, 4), ("2g.20gb", 4, 2), ("1g.10gb+me", 6, 1)],
        [("7g.80gb", 0, 8)],
    ],
)
def test_what_the_driver_makes_is_accepted(cuts: list[Cut]) -> None:
    assert said(device(), slices(*cuts)) == []


@pytest.mark.parametrize(
    ("cuts", "word"),
    [
        ([("3g.40gb", 0, 4), ("2g.20gb", 2, 2)], "belongs to both m-1 and m-2"),
        ([("3g.40gb", 2, 4)], "cannot start at slice 2"),
        ([("1g.10gb", 7, 1)], "cannot start at slice 7"),
        ([("4g.40gb", 4, 4)], "cannot start at slice 4"),
        ([("2g.20gb", 0, 1)], "covers 1 memory slices"),
        ([("2g.10gb", 0, 2)], "no MIG profile 2g.10gb"),
        ([("1g.10gb+me", 0, 1), ("1g.10gb+me", 1, 1)], "2 instances of 1g.10gb+me"),
    ],
)
def test_what_the_driver_refuses_is_refused(cuts: list[Cut], word: str) -> None:
    assert any(word in line for line in said(device(), slices(*cuts)))


def test_slices_of_others_are_not_taken() -> None:
    there = device(occupied_slices=(0, 1))
    assert said(there, slices(("2g.20gb", 2, 2))) == []
    assert any("both others and m-1" in line for line in said(there, slices(("2g.20gb", 0, 2))))


def test_an_instance_holds_only_what_its_memory_holds() -> None:
    assert said(device(), slices(("1g.10gb", 0, 1), gib=8.9)) == []
    (line,) = said(device(), slices(("1g.10gb", 0, 1), gib=9.2))
    assert "an instance of 1g.10gb has" in line


def share(number: int = 1) -> Placement:
    """A memory share."""
    return placed(MemoryShare("gpu-0", Bytes(8 * GIB)), number)


@pytest.mark.parametrize(
    ("changes", "here", "word"),
    [
        ({"cordoned": True}, (share(),), "is cordoned"),
        ({"max_replicas": 1}, (share(1), share(2)), "it allows 1"),
        ({"occupied_slices": (0,)}, (share(),), "cut by MIG for others"),
        ({"occupied_sm_percent": 5}, (share(),), "used by others under MPS"),
        (
            {"occupied_sm_percent": 75},
            (placed(MpsShare("gpu-0", Bytes(8 * GIB), 30)),),
            "30 % of its SMs beside the 75 %",
        ),
    ],
)
def test_limits_of_a_device(
    changes: dict[str, object], here: tuple[Placement, ...], word: str
) -> None:
    assert any(word in line for line in said(device(**changes), here))
    assert said(device(), here) == []


def test_isolation_by_hardware_is_an_instance_or_a_device_alone() -> None:
    hardware = Isolation.HARDWARE
    two = slices(("2g.20gb", 0, 2), ("2g.20gb", 2, 2))
    assert said(device(), two, hardware) == []
    assert said(device(occupied_slices=(4,)), two, hardware) == []
    assert said(device(), (share(),), hardware) == []
    assert said(device(), (placed(WholeDevice("gpu-0", Bytes(8 * GIB))),), hardware) == []
    assert len(said(device(), (share(1), share(2)), hardware)) == 2


def test_a_device_of_its_own_is_not_cut_for_others() -> None:
    one, two = slices(("2g.20gb", 0, 2), ("2g.20gb", 2, 2))
    assert said(device(), (one,), Isolation.DEVICE) == []
    assert len(said(device(), (one, two), Isolation.DEVICE)) == 2
    assert said(device(occupied_slices=(6,)), (one,), Isolation.DEVICE) != []
