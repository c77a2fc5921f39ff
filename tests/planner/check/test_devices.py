"""Devices hold what they have room for, as their modes, their driver and their host allow."""

import dataclasses
from collections.abc import Sequence

import pytest

from partitiond.core.hardware.kinds import Device, MigInstance, MigProfile, SharingMode
from partitiond.core.hardware.kinds import headroom_bytes as headroom
from partitiond.core.hardware.partition import MemoryShare, MigSlice, PartitionSize
from partitiond.core.model.spec import Isolation
from partitiond.core.plan.record import Candidate, ModelDemand, Placement
from partitiond.core.units import GIB, MIB, Bytes
from tests.planner.build import cpu, gpu, in_mig, on_cores, point, want
from tests.planner.check.make import bytes_more, lines, placed, said

EVERY = (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG)
SHARE, MPS = point("a", 5, 8), point("a", 5, 8, sm=30)
WHOLE = point("a", 5, 8, mode=SharingMode.WHOLE)


def device(**changes: object) -> Device:
    """An A100 80GB that allows every mode."""
    return gpu(modes=EVERY, **changes)  # type: ignore[arg-type]


def demands_of(placements: Sequence[Placement], **asked: object) -> tuple[ModelDemand, ...]:
    """Models that ask for nothing but what is placed, at their own points."""
    found: dict[str, dict[Candidate, None]] = {}
    for p in placements:
        found.setdefault(p.model, {})[p.candidate] = None
    return tuple(want(m, *sizes, **asked) for m, sizes in found.items())  # type: ignore[arg-type]


def wrong(there: Device | Sequence[Device], *here: Placement, **asked: object) -> tuple[str, ...]:
    """What is wrong with these placements."""
    devices = (there,) if isinstance(there, Device) else there
    memory = asked.pop("memory", ())
    return said(devices, here, demands_of(here, **asked), memory=memory)  # type: ignore[arg-type]


def many(candidate: Candidate, number: int) -> tuple[Placement, ...]:
    """So many replicas of a model."""
    return tuple(placed(candidate, n) for n in range(1, number + 1))


def test_nothing_is_wrong_with_a_device_that_holds_nothing() -> None:
    empty = gpu("gpu-1", cordoned=True, occupied_slices=(0,), max_replicas=0)
    assert wrong((device(), empty), placed(SHARE)) == ()


@pytest.mark.parametrize(
    ("there", "here", "says"),
    [
        (
            device(),
            (placed(SHARE), placed(point("b", 5, 8, sm=30))),
            "gpu-0 is shared in several modes: memory, mps",
        ),
        (device(), (placed(SHARE, model="b"),), "b-1 serves b at a point of a"),
        (
            device(),
            (placed(point("a", 5, 8, hardware="h100-80gb")),),
            "a-1 is profiled on h100-80gb, gpu-0 is another kind",
        ),
        (gpu(modes=EVERY[:1]), (placed(SHARE),), "gpu-0 does not allow the mode memory of a-1"),
        (
            device(),
            (placed(MPS, at=MemoryShare("gpu-0", MPS.memory_bytes)),),
            "a-1 is profiled on mps-30 but placed in mode memory",
        ),
        (device(), (placed(SHARE, memory_bytes=Bytes(8 * GIB)),), ""),
        (
            device(),
            (placed(SHARE, memory_bytes=Bytes(8 * GIB - 1)),),
            "a-1 needs 8 GiB, its partition has less",
        ),
        (device(), (placed(MPS),), ""),
        (device(), (placed(MPS, sm_percent=29),), "a-1 is profiled at 30 % of SMs, placed at 29"),
        (device(), (placed(MPS, sm_percent=31),), "a-1 is profiled at 30 % of SMs, placed at 31"),
        (
            cpu(2),
            (placed(on_cores("a", 5, 2), on="cpu", cores=(1, 1)),),
            ("a-1 is profiled on 2 cores, placed on 1 | core 1 belongs to both a-1 and a-1"),
        ),
        (
            device(),
            (placed(in_mig("a", 5, "1g.10gb"), mig_profile="1g.20gb", slice_count=2),),
            "a-1 is profiled on 1g.10gb, placed on 1g.20gb",
        ),
    ],
)
def test_a_replica_gets_the_partition_it_is_profiled_on(
    there: Device, here: tuple[Placement, ...], says: str
) -> None:
    assert wrong(there, *here) == lines(says)


# -- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "most", "mode"),
    [(WHOLE, 1, "whole"), (point("a", 5, 1), 32, "memory"), (point("a", 5, 1, sm=2), 48, "mps")],
)
def test_a_mode_allows_so_many_replicas(candidate: Candidate, most: int, mode: str) -> None:
    assert wrong(device(), *many(candidate, most)) == ()
    says = f"gpu-0 holds {most + 1} replicas, {mode} allows {most}"
    assert wrong(device(), *many(candidate, most + 1)) == (says,)


@pytest.mark.parametrize(
    ("changes", "candidate", "number", "says"),
    [
        ({"cordoned": True}, SHARE, 1, "gpu-0 is cordoned and holds 1 replicas"),
        ({"max_replicas": 2}, SHARE, 2, ""),
        ({"max_replicas": 2}, SHARE, 3, "gpu-0 holds 3 replicas, it allows 2"),
        ({"max_replicas": 0}, SHARE, 1, "gpu-0 holds 1 replicas, it allows 0"),
        (
            {"occupied_slices": (0,)},
            SHARE,
            1,
            "gpu-0 is cut by MIG for others and cannot be used in mode memory",
        ),
        (
            {"occupied_sm_percent": 5},
            SHARE,
            1,
            "gpu-0 is used by others under MPS and cannot be used in mode memory",
        ),
        ({"occupied_sm_percent": 10}, MPS, 3, ""),
        (
            {"occupied_sm_percent": 11},
            MPS,
            3,
            "gpu-0 gives away 90 % of its SMs beside the 11 % of others",
        ),
        ({}, point("a", 5, 8, sm=50), 2, ""),
        ({}, point("a", 5, 8, sm=51), 2, "gpu-0 gives away 102 % of its SMs"),
        ({}, point("a", 5, 8, sm=34), 3, "gpu-0 gives away 102 % of its SMs"),
    ],
)
def test_limits_of_a_device_hold(
    changes: dict[str, object], candidate: Candidate, number: int, says: str
) -> None:
    assert wrong(device(**changes), *many(candidate, number)) == lines(says)


def test_a_device_without_a_share_under_mps_gives_nothing_away() -> None:
    """Others may hold more than all SMs; that is no fault of a plan that takes none."""
    none = dataclasses.replace(MPS, size=PartitionSize(SharingMode.MPS, 1, 0))
    assert wrong(device(occupied_sm_percent=101), placed(none, sm_percent=0)) == ()


# -- isolation -------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"occupied_sm_percent": 5}, {"occupied_slices": (6,)}])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("isolation", "word"),
    [(Isolation.DEVICE, "a device of its own"), (Isolation.HARDWARE, "hardware isolation")],
)
def test_isolation_keeps_neighbours_away(
    changes: dict[str, object], number: int, isolation: Isolation, word: str
) -> None:
    """A MIG instance is isolated by hardware; others on the device count as neighbours."""
    sliced = "occupied_slices" in changes
    candidate = in_mig("a", 5, "1g.10gb") if sliced else MPS
    here = [
        placed(candidate, n, slice_start=n) if sliced else placed(candidate, n)
        for n in range(1, number + 1)
    ]
    crowded = number > 1 or bool(changes)
    walled = sliced and isolation is Isolation.HARDWARE
    says = [f"{p.replica_id} wants {word} and shares gpu-0" for p in here]
    found = wrong(device(**changes), *here, isolation=isolation)
    assert found == (tuple(says) if crowded and not walled else ())


def of_groups(first: str, second: str) -> tuple[ModelDemand, ...]:
    """Models `a` and `b` of these isolation groups."""
    sizes = point("a", 5, 8, sm=30), point("b", 5, 8, sm=30)
    groups = first, second
    return tuple(want(c.model, c, isolation_group=g) for c, g in zip(sizes, groups, strict=True))


@pytest.mark.parametrize(
    ("groups", "placed_as", "kept", "says"),
    [
        (("x", "x"), ("x", "x"), None, ""),
        (("x", "x"), ("x", "x"), "x", ""),
        (("", ""), ("", ""), "", ""),
        (("x", "x"), ("x", ""), None, "b-1 is not placed as of the isolation group of b"),
        (
            ("x", "y"),
            ("x", "y"),
            None,
            "b and a share gpu-0 under MPS and are of different isolation groups, and an MPS "
            "daemon serves one group",
        ),
        (
            ("y", "x"),
            ("y", "x"),
            None,
            "b and a share gpu-0 under MPS and are of different isolation groups, and an MPS "
            "daemon serves one group",
        ),
        (
            ("", ""),
            ("", ""),
            "z",
            " | ".join(
                f"{model} and what sleeps or is measured share gpu-0 under MPS and are of "
                "different isolation groups, and an MPS daemon serves one group"
                for model in "ab"
            ),
        ),
    ],
)
def test_an_mps_daemon_serves_one_isolation_group(
    groups: tuple[str, str], placed_as: tuple[str, str], kept: str | None, says: str
) -> None:
    demands = of_groups(*groups)
    here = [
        placed(d.candidates[0], isolation_group=g) for d, g in zip(demands, placed_as, strict=True)
    ]
    assert said((device(mps_group=kept),), here, demands) == lines(says)


def test_groups_may_share_a_gpu_by_memory() -> None:
    sizes = point("a", 5, 8), point("b", 5, 8)
    demands = [want(c.model, c, isolation_group=c.model) for c in sizes]
    assert said((device(mps_group="z"),), [placed(c) for c in sizes], demands) == ()


# -- memory ----------------------------------------------------------------------------------


def roomy(mode: SharingMode, **changes: object) -> tuple[Device, int]:
    """A device and the bytes that it has for replicas in a mode."""
    total = 80 * GIB
    values = {"memory_bytes": Bytes(total), "free_bytes": Bytes(total), **changes}
    there = dataclasses.replace(device(), **values)  # type: ignore[arg-type]
    return there, total - headroom(total) - (256 * MIB if mode is SharingMode.MPS else 0)


@pytest.mark.parametrize(
    ("mode", "changes", "less"),
    [
        (SharingMode.WHOLE, {}, 0),
        (SharingMode.MEMORY, {}, 0),
        (SharingMode.MPS, {}, 0),
        (SharingMode.MEMORY, {"reserved_bytes": Bytes(3 * GIB)}, 3 * GIB),
        (SharingMode.MEMORY, {"free_bytes": Bytes(73 * GIB)}, 7 * GIB),
        (
            SharingMode.MEMORY,
            {"reserved_bytes": Bytes(3 * GIB), "free_bytes": Bytes(73 * GIB)},
            7 * GIB,
        ),
        (
            SharingMode.MEMORY,
            {"reserved_bytes": Bytes(9 * GIB), "free_bytes": Bytes(73 * GIB)},
            9 * GIB,
        ),
    ],
)
def test_footprints_fit_to_the_byte(
    mode: SharingMode, changes: dict[str, object], less: int
) -> None:
    """Beside headroom, what the driver keeps or others hold, and what MPS takes."""
    there, room = roomy(mode, **changes)
    one = point("a", 5, 0, mode=mode, sm=30 if mode is SharingMode.MPS else 0)
    beside = [] if mode is SharingMode.WHOLE else [placed(dataclasses.replace(one, model="b"))]
    fits = bytes_more(one, room - less)
    assert wrong(there, placed(fits), *beside) == ()
    more = bytes_more(fits, 1)
    for over in placed(more), placed(fits, memory_bytes=more.memory_bytes):
        (line,) = wrong(there, over, *beside)
        assert line.startswith("gpu-0 needs ")
        assert line.endswith(" after headroom, reserved and foreign use")


def test_room_that_is_less_than_nothing_is_said_to_be_nothing() -> None:
    there = dataclasses.replace(device(), free_bytes=Bytes(1))
    assert wrong(there, placed(SHARE)) == (
        "gpu-0 needs 8 GiB for its replicas and has 0 B after headroom, reserved and foreign use",
    )


# -- cores and memory of hosts ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ((0,), (1,), ""),
        ((0,), (0,), "core 0 belongs to both a-1 and b-1"),
        ((0,), (2,), "b-1 is on core 2, which cpu does not have"),
    ],
)
def test_a_core_serves_one_replica(
    first: tuple[int, ...], second: tuple[int, ...], says: str
) -> None:
    a, b = on_cores("a", 5, 1), on_cores("b", 5, 1)
    here = placed(a, on="cpu", cores=first), placed(b, on="cpu", cores=second)
    assert wrong(cpu(2), *here) == lines(says)


def hungry(model: str, cores: int, on: str, number: int = 1) -> Placement:
    """An engine on a GPU that needs so many cores of the host."""
    return placed(point(model, 5, 1, cores=cores), number, on)


def pair(first: tuple[int, ...], second: tuple[int, ...], **changes: object) -> tuple[Device, ...]:
    """Two GPUs with these host cores."""
    return gpu("gpu-0", cores=first), gpu("gpu-1", cores=second, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("devices", "here", "says"),
    [
        (pair((0, 1), (0, 1)), (hungry("a", 2, "gpu-0"),), ""),
        (
            pair((0, 1), (0, 1)),
            (hungry("a", 3, "gpu-0"),),
            (
                "engines on gpu-0 need 3 host cores, 2 are free for them | "
                "engines on the GPUs of host need 3 cores, 2 are free"
            ),
        ),
        (pair((0, 1), (1, 2)), (hungry("a", 2, "gpu-0"), hungry("b", 1, "gpu-1")), ""),
        (
            pair((0, 1), (1, 2)),
            (hungry("a", 2, "gpu-0"), hungry("b", 2, "gpu-1")),
            "engines on the GPUs of host need 4 cores, 3 are free",
        ),
        (
            pair((0, 1), (1, 2, 3, 4)),
            (hungry("a", 3, "gpu-0"),),
            "engines on gpu-0 need 3 host cores, 2 are free for them",
        ),
        (
            pair((0, 1), (1,)),
            (hungry("a", 1, "gpu-0"), hungry("a", 1, "gpu-0", 2), hungry("b", 1, "gpu-0")),
            (
                "engines on gpu-0 need 3 host cores, 2 are free for them | "
                "engines on the GPUs of host need 3 cores, 2 are free"
            ),
        ),
        (pair((0, 1), (0, 1), host="h2"), (hungry("a", 2, "gpu-0"), hungry("b", 2, "gpu-1")), ""),
        (pair((), (0,)), (hungry("a", 7, "gpu-0"), hungry("b", 1, "gpu-1")), ""),
        (
            (gpu("gpu-0", cores=(0, 1)), cpu(2)),
            (hungry("a", 1, "gpu-0"), placed(on_cores("b", 5, 1), on="cpu", cores=(1,))),
            "",
        ),
        (
            (gpu("gpu-0", cores=(0, 1)), cpu(2)),
            (hungry("a", 2, "gpu-0"), placed(on_cores("b", 5, 1), on="cpu", cores=(1,))),
            (
                "engines on gpu-0 need 2 host cores, 1 are free for them | "
                "engines on the GPUs of host need 2 cores, 1 are free"
            ),
        ),
        (
            (gpu("gpu-0", cores=(0, 1)), cpu(2, host="h2")),
            (hungry("a", 2, "gpu-0"), placed(on_cores("b", 5, 1), on="cpu", cores=(1,))),
            "",
        ),
    ],
)
def test_engines_on_gpus_need_cores_of_the_host(
    devices: tuple[Device, ...], here: tuple[Placement, ...], says: str
) -> None:
    """Of a device's own list, and GPUs of a host divide what their lists name together."""
    assert wrong(devices, *here) == lines(says)


def in_memory(gib: float, on: str = "gpu-0", model: str = "a") -> Placement:
    """An engine on a GPU that takes memory of the host, too."""
    return placed(point(model, 5, 1, host_gib=gib), on=on)


CPU_ROOM = 24 * GIB - headroom(24 * GIB)
ON_CPU = bytes_more(on_cores("c", 5, 1, 1), CPU_ROOM - GIB)


@pytest.mark.parametrize(
    ("devices", "here", "stated", "over"),
    [
        ((gpu(),), (in_memory(900),), (), False),
        ((gpu(),), (in_memory(10),), (("host", 10 * GIB),), False),
        ((gpu(),), (in_memory(10),), (("host", 10 * GIB - 1),), True),
        ((gpu(),), (in_memory(10),), (("other", 0),), False),
        (
            (gpu(), gpu("gpu-1")),
            (in_memory(6), in_memory(5, "gpu-1", "b")),
            (("host", 10 * GIB),),
            True,
        ),
        (
            (gpu(), gpu("gpu-1", host="h2")),
            (in_memory(6), in_memory(5, "gpu-1", "b")),
            (("host", 10 * GIB),),
            False,
        ),
        ((gpu(), cpu()), (in_memory(23),), (), False),
        ((gpu(), cpu()), (in_memory(24),), (), True),
        ((gpu(), cpu()), (in_memory(23),), (("host", 22 * GIB),), True),
        ((gpu(), cpu()), (in_memory(24),), (("host", 25 * GIB),), True),
        ((gpu(), cpu()), (in_memory(0), placed(ON_CPU, on="cpu")), (), False),
        ((gpu(), cpu()), (in_memory(1e-9), placed(ON_CPU, on="cpu")), (), True),
        (
            (gpu(), dataclasses.replace(cpu(), reserved_bytes=Bytes(GIB))),
            (in_memory(22.3),),
            (),
            True,
        ),
        (
            (gpu(), dataclasses.replace(cpu(), free_bytes=Bytes(23 * GIB))),
            (in_memory(22.3),),
            (),
            True,
        ),
    ],
)
def test_engines_need_memory_of_the_host(
    devices: tuple[Device, ...],
    here: tuple[Placement, ...],
    stated: tuple[tuple[str, int], ...],
    over: bool,
) -> None:
    """The stated one or what the CPU device has, whichever is less; replicas on the CPU share it.

    1e-9 GiB are one byte.
    """
    found = wrong(devices, *here, memory=stated)
    assert len(found) == over
    assert all(x.startswith("engines on host need ") and "of host memory, " in x for x in found)


def test_a_host_without_memory_for_engines_is_said_to_have_none() -> None:
    assert wrong(gpu(), in_memory(1), memory=(("host", -5),)) == (
        "engines on host need 1 GiB of host memory, 0 B are there",
    )


def test_a_partition_on_the_cpu_counts_as_it_is_and_its_candidate_takes_nothing_more() -> None:
    """`host_memory_bytes` of a candidate on cores is counted in its footprint."""
    twice = dataclasses.replace(on_cores("a", 5, 1, 4), host_memory_bytes=Bytes(900 * GIB))
    assert wrong(cpu(), placed(twice, on="cpu")) == ()
    found = wrong(cpu(), placed(on_cores("a", 5, 1, 4), on="cpu", memory_bytes=Bytes(CPU_ROOM + 1)))
    assert [line.partition(" need")[0] for line in found] == ["cpu", "engines on host"]


# -- MIG -------------------------------------------------------------------------------------

Cut = tuple[str, int, int]


def cut(*cuts: Cut, gib: float = 8) -> tuple[Placement, ...]:
    """Replicas in GPU instances: MIG profile, first memory slice, memory slices."""
    return tuple(
        placed(in_mig("m", 1, name, gib), n, slice_start=start, slice_count=size)
        for n, (name, start, size) in enumerate(cuts, start=1)
    )


@pytest.mark.parametrize(
    "cuts",
    [
        [("3g.40gb", 0, 4), ("3g.40gb", 4, 4)],
        [("1g.10gb", n, 1) for n in range(7)],
        [("1g.20gb", n, 2) for n in (0, 2, 4, 6)],
        [("2g.20gb", n, 2) for n in (0, 2, 4)],
        [("4g.40gb", 0, 4), ("2g.20gb", 4, 2), ("1g.10gb+me", 6, 1)],
        [("7g.80gb", 0, 8)],
    ],
)
def test_what_the_driver_makes_is_accepted(cuts: list[Cut]) -> None:
    assert wrong(device(), *cut(*cuts)) == ()


def both(number: int) -> str:
    """Two replicas in one memory slice."""
    return f"memory slice {number} of gpu-0 belongs to both m-1 and m-2"


@pytest.mark.parametrize(
    ("cuts", "says"),
    [
        ([("3g.40gb", 0, 4), ("2g.20gb", 2, 2)], f"{both(2)} | {both(3)}"),
        ([("1g.10gb", 3, 1), ("1g.20gb", 2, 2)], both(3)),
        *(
            ([(name, start, size)], f"an instance of {name} cannot start at slice {start}")
            for name, start, size in (
                ("3g.40gb", 2, 4),
                ("3g.40gb", 1, 4),
                ("1g.10gb", 7, 1),
                ("4g.40gb", 4, 4),
                ("1g.20gb", 1, 2),
                ("2g.20gb", 6, 2),
                ("7g.80gb", 1, 8),
            )
        ),
        ([("2g.20gb", 0, 1)], "m-1 covers 1 memory slices of gpu-0, 2g.20gb has 2"),
        ([("1g.10gb", 0, 2)], "m-1 covers 2 memory slices of gpu-0, 1g.10gb has 1"),
        ([("2g.10gb", 0, 2)], "gpu-0 has no MIG profile 2g.10gb, which m-1 needs"),
        (
            [("1g.10gb+me", 0, 1), ("1g.10gb+me", 1, 1)],
            "gpu-0 has 2 instances of 1g.10gb+me, it can have 1",
        ),
    ],
)
def test_what_the_driver_refuses_is_refused(cuts: list[Cut], says: str) -> None:
    assert wrong(device(), *cut(*cuts)) == lines(says)


def test_what_no_profile_describes_is_passed_over_and_the_rest_is_looked_at() -> None:
    found = wrong(device(), *cut(("none", 0, 1), ("1g.10gb", 7, 1)))
    assert found == (
        "gpu-0 has no MIG profile none, which m-1 needs",
        "an instance of 1g.10gb cannot start at slice 7",
    )


def test_the_driver_s_own_list_of_profiles_counts_before_the_catalog_s() -> None:
    eighth = MigProfile("1g.10gb", 1, 1, 14, Bytes(10 * GIB), 9, starts=tuple(range(1, 9)))
    there = device(mig_profiles=(eighth,))
    assert wrong(there, *cut(("1g.10gb", 7, 1))) == ()
    assert wrong(there, *cut(("1g.10gb", 0, 1))) == (
        "an instance of 1g.10gb cannot start at slice 0",
    )
    assert wrong(there, *cut(("2g.20gb", 0, 2))) == (
        "gpu-0 has no MIG profile 2g.20gb, which m-1 needs",
    )
    eight = [("1g.10gb", n, 1) for n in range(1, 9)]
    assert wrong(there, *cut(*eight)) == ("gpu-0 holds 8 replicas, mig allows 7",)
    unknown = dataclasses.replace(device(), hardware="of tomorrow")
    here = placed(
        dataclasses.replace(in_mig("m", 1, "1g.10gb"), hardware="of tomorrow"), slice_count=1
    )
    assert wrong(unknown, here) == ("gpu-0 has no MIG profile 1g.10gb, which m-1 needs",)
    listed = dataclasses.replace(unknown, mig_profiles=(dataclasses.replace(eighth, starts=(0,)),))
    assert wrong(listed, here) == ()


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (("2g.20gb", 2, 2), ""),
        (("2g.20gb", 0, 2), "memory slice 1 of gpu-0 belongs to both others and m-1"),
    ],
)
def test_slices_of_others_are_not_taken(where: Cut, says: str) -> None:
    assert wrong(device(occupied_slices=(1,)), *cut(where)) == lines(says)


def test_an_instance_holds_only_what_its_memory_holds() -> None:
    memory = 9728 * MIB
    fits = bytes_more(in_mig("m", 1, "1g.10gb", 0), memory - headroom(memory))
    assert wrong(device(), placed(fits)) == ()
    large = bytes_more(fits, 1)
    says = ("m-1 needs 9 GiB, an instance of 1g.10gb has 9 GiB after headroom",)
    assert wrong(device(), placed(large)) == says
    assert wrong(device(), placed(fits, memory_bytes=large.memory_bytes)) == says


IDLE = MigInstance("1g.20gb", 2, 2, Bytes(20 * GIB), "MIG-1")
"""An instance that exists and that nothing runs in."""
SMALL = ("1g.10gb", 0, 1)
UNNAMED, BUSY = dataclasses.replace(IDLE, uuid=""), dataclasses.replace(IDLE, busy=True)
ANEW = "gpu-0 may not be cut anew, and m-1 has no idle instance there"
OTHERS = " | ".join(f"memory slice {n} of gpu-0 belongs to both others and m-1" for n in (2, 3))


@pytest.mark.parametrize(
    ("there", "fixed", "others", "where", "says"),
    [
        # An idle instance is used as it is, whoever made it, and where a new one could not start.
        (IDLE, False, (), ("1g.20gb", 2, 2), ""),
        (IDLE, True, (), ("1g.20gb", 2, 2), ""),
        (IDLE, True, (2, 3), ("1g.20gb", 2, 2), ""),
        (dataclasses.replace(IDLE, slice_start=1), True, (1, 2), ("1g.20gb", 1, 2), ""),
        # It is the one at exactly that place, and of exactly that profile and length.
        (IDLE, True, (), ("1g.20gb", 4, 2), ANEW),
        (IDLE, True, (), ("2g.20gb", 2, 2), ANEW),
        (
            IDLE,
            True,
            (),
            ("1g.20gb", 2, 1),
            f"{ANEW} | m-1 covers 1 memory slices of gpu-0, 1g.20gb has 2",
        ),
        # It is busy, or CUDA cannot be told of it.
        (UNNAMED, True, (), ("1g.20gb", 2, 2), ANEW),
        (UNNAMED, False, (), ("1g.20gb", 2, 2), ""),
        (UNNAMED, False, (2, 3), ("1g.20gb", 2, 2), OTHERS),
        (BUSY, False, (), ("1g.20gb", 2, 2), OTHERS),
        (BUSY, True, (), ("1g.20gb", 2, 2), f"{ANEW} | {OTHERS}"),
        # What is ours and idle gives way to a new cut; what others hold beside it stays.
        (IDLE, False, (), ("3g.40gb", 0, 4), ""),
        (IDLE, False, (), SMALL, ""),
    ],
)
def test_instances_that_exist_are_used_or_give_way(
    there: MigInstance, fixed: bool, others: tuple[int, ...], where: Cut, says: str
) -> None:
    on = device(mig_instances=(there,), mig_fixed=fixed, occupied_slices=others)
    assert wrong(on, *cut(where)) == lines(says)


@pytest.mark.parametrize(
    ("busy", "others", "says"),
    [
        (True, (), "gpu-0 has 2 instances of 1g.10gb+me, it can have 1"),
        (False, (3,), "gpu-0 has 2 instances of 1g.10gb+me, it can have 1"),
        (False, (4,), ""),
        (False, (), ""),
    ],
)
def test_instances_that_stay_count_among_those_of_their_profile(
    busy: bool, others: tuple[int, ...], says: str
) -> None:
    media = MigInstance("1g.10gb+me", 3, 1, Bytes(9 * GIB), "MIG-1", busy)
    on = device(mig_instances=(media,), occupied_slices=others)
    assert wrong(on, *cut(("1g.10gb+me", 0, 1))) == lines(says)


@pytest.mark.parametrize(
    ("reported", "room"), [(Bytes(12 * GIB), 12 * GIB), (Bytes(0), 9728 * MIB)]
)
def test_an_instance_that_exists_has_the_memory_that_its_driver_reports(
    reported: Bytes, room: int
) -> None:
    there = MigInstance("1g.10gb", 0, 1, reported, "MIG-1")
    fits = bytes_more(in_mig("m", 1, "1g.10gb", 0), room - headroom(room))
    assert wrong(device(mig_instances=(there,)), placed(fits)) == ()
    assert len(wrong(device(mig_instances=(there,)), placed(bytes_more(fits, 1)))) == 1


def test_a_slice_of_another_start_is_another_instance() -> None:
    """Two instances of a profile exist, of which one is busy: place and profile tell them apart."""
    two = (
        MigInstance("1g.10gb", 0, 1, Bytes(9 * GIB), "MIG-0", busy=True),
        MigInstance("1g.10gb", 1, 1, Bytes(9 * GIB), "MIG-1"),
        MigInstance("1g.20gb", 4, 2, Bytes(19 * GIB), "MIG-2"),
    )
    on = device(mig_instances=two, mig_fixed=True)
    assert wrong(on, *cut(("1g.10gb", 1, 1), ("1g.20gb", 4, 2))) == ()
    assert wrong(on, placed(in_mig("m", 1, "1g.10gb"), slice_start=0)) == (
        "gpu-0 may not be cut anew, and m-1 has no idle instance there",
        "memory slice 0 of gpu-0 belongs to both others and m-1",
    )
    assert isinstance(cut(SMALL)[0].partition, MigSlice)
