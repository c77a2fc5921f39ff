"""Devices hold what they have room for, as their modes, their driver and their host allow."""

import dataclasses
from collections.abc import Sequence

import pytest

from partitiond.core.hardware.kinds import Device, MigInstance, MigProfile, SharingMode
from partitiond.core.hardware.kinds import headroom_bytes as headroom
from partitiond.core.hardware.partition import MemoryShare
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


IN_MIG, ON_CPU = in_mig("a", 5, "1g.10gb"), on_cores("a", 5, 2)
BY_MEMORY = MemoryShare("gpu-0", MPS.memory_bytes)
OTHER_MODE = "a-1 is profiled on mps-30 but placed in mode memory"
LESS = "a-1 needs 8 GiB, its partition has less"
OTHER_SLICE = "a-1 is profiled on 1g.10gb, placed on 1g.20gb"
ONE_CORE_TWICE = "a-1 is profiled on 2 cores, placed on 1 | core 1 belongs to both a-1 and a-1"
OF_H100 = point("a", 5, 8, hardware="h100-80gb")


def test_a_replica_gets_the_partition_it_is_profiled_on() -> None:
    for there, here, says in (
        (device(), placed(SHARE, model="b"), "b-1 serves b at a point of a"),
        (device(), placed(OF_H100), "a-1 is profiled on h100-80gb, gpu-0 is another kind"),
        (gpu(modes=EVERY[:1]), placed(SHARE), "gpu-0 does not allow the mode memory of a-1"),
        (device(), placed(MPS, at=BY_MEMORY), OTHER_MODE),
        (device(), placed(SHARE, memory_bytes=Bytes(8 * GIB)), ""),
        (device(), placed(SHARE, memory_bytes=Bytes(8 * GIB - 1)), LESS),
        (device(), placed(MPS), ""),
        (device(), placed(MPS, sm_percent=29), "a-1 is profiled at 30 % of SMs, placed at 29"),
        (device(), placed(MPS, sm_percent=31), "a-1 is profiled at 30 % of SMs, placed at 31"),
        (cpu(2), placed(ON_CPU, on="cpu", cores=(1, 1)), ONE_CORE_TWICE),
        (device(), placed(IN_MIG, mig_profile="1g.20gb", slice_count=2), OTHER_SLICE),
    ):
        assert wrong(there, here) == lines(says)


def test_a_device_is_shared_in_one_mode() -> None:
    both = placed(SHARE), placed(point("b", 5, 8, sm=30))
    assert wrong(device(), *both) == ("gpu-0 is shared in several modes: memory, mps",)


# -- numbers ---------------------------------------------------------------------------------


NO_MEMORY = "cannot be used in mode memory"


def test_limits_of_a_device_hold() -> None:
    for changes, candidate, number, says in (
        ({"cordoned": True}, SHARE, 1, "is cordoned and holds 1 replicas"),
        ({"max_replicas": 2}, SHARE, 2, ""),
        ({"max_replicas": 2}, SHARE, 3, "holds 3 replicas, it allows 2"),
        ({"max_replicas": 0}, SHARE, 1, "holds 1 replicas, it allows 0"),
        ({"occupied_slices": (0,)}, SHARE, 1, "is cut by MIG for others and " + NO_MEMORY),
        ({"occupied_sm_percent": 5}, SHARE, 1, "is used by others under MPS and " + NO_MEMORY),
        ({"occupied_sm_percent": 10}, MPS, 3, ""),
        ({}, point("a", 5, 8, sm=50), 2, ""),
        ({}, point("a", 5, 8, sm=51), 2, "gives away 102 % of its SMs"),
    ):
        found = wrong(device(**changes), *many(candidate, number))
        assert found == ((f"gpu-0 {says}",) if says else ())


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


@pytest.mark.parametrize(
    ("groups", "placed_as", "kept", "apart"),
    [
        ("xx", "xx", None, ()),
        ("xx", "xx", "x", ()),
        (("", ""), ("", ""), "", ()),
        ("xy", "xy", None, ("b and a",)),
        ("yx", "yx", None, ("b and a",)),
        (("", ""), ("", ""), "z", [f"{m} and what sleeps or is measured" for m in "ab"]),
    ],
)
def test_an_mps_daemon_serves_one_isolation_group(
    groups: Sequence[str], placed_as: Sequence[str], kept: str | None, apart: Sequence[str]
) -> None:
    says = (
        "{} share gpu-0 under MPS and are of different isolation groups, and an MPS daemon "
        "serves one group"
    )
    found = in_groups(groups, placed_as, kept)
    assert found == tuple(says.format(who) for who in apart)


def in_groups(
    groups: Sequence[str], placed_as: Sequence[str], kept: str | None = None
) -> tuple[str, ...]:
    """What is said of models `a` and `b` of these isolation groups that are placed as of those."""
    sizes = point("a", 5, 8, sm=30), point("b", 5, 8, sm=30)
    demands = [want(c.model, c, isolation_group=g) for c, g in zip(sizes, groups, strict=True)]
    here = [placed(c, isolation_group=g) for c, g in zip(sizes, placed_as, strict=True)]
    return said((device(mps_group=kept),), here, demands)


def test_a_replica_is_placed_as_of_the_group_of_its_model() -> None:
    says = ("b-1 is not placed as of the isolation group of b",)
    assert in_groups("xx", ("x", "")) == says


# -- memory ----------------------------------------------------------------------------------


def test_footprints_fit_to_the_byte() -> None:
    """Beside headroom, what the driver keeps or others hold (in GiB), and what MPS takes."""
    for mode, reserved, held, less in (
        (SharingMode.WHOLE, 0, 0, 0),
        (SharingMode.MEMORY, 0, 0, 0),
        (SharingMode.MPS, 0, 0, 0),
        (SharingMode.MEMORY, 3, 0, 3),
        (SharingMode.MEMORY, 0, 7, 7),
        (SharingMode.MEMORY, 3, 7, 7),
        (SharingMode.MEMORY, 9, 7, 9),
    ):
        total, mps = 80 * GIB, mode is SharingMode.MPS
        there = dataclasses.replace(
            device(),
            memory_bytes=Bytes(total),
            free_bytes=Bytes(total - held * GIB),
            reserved_bytes=Bytes(reserved * GIB),
        )
        room = total - headroom(total) - (256 * MIB if mps else 0) - less * GIB
        one = point("a", 5, 0, mode=mode, sm=30 if mps else 0)
        beside = [] if mode is SharingMode.WHOLE else [placed(dataclasses.replace(one, model="b"))]
        fits = bytes_more(one, room)
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


def test_a_core_serves_one_replica() -> None:
    for first, second, says in (
        ((0,), (1,), ""),
        ((0,), (0,), "core 0 belongs to both a-1 and b-1"),
        ((0,), (2,), "b-1 is on core 2, which cpu does not have"),
    ):
        a, b = on_cores("a", 5, 1), on_cores("b", 5, 1)
        here = placed(a, on="cpu", cores=first), placed(b, on="cpu", cores=second)
        assert wrong(cpu(2), *here) == lines(says)


def hungry(model: str, cores: int, on: str, number: int = 1) -> Placement:
    """An engine on a GPU that needs so many cores of the host."""
    return placed(point(model, 5, 1, cores=cores), number, on)


def pair(first: tuple[int, ...], second: tuple[int, ...], **changes: object) -> tuple[Device, ...]:
    """Two GPUs with these host cores."""
    return gpu("gpu-0", cores=first), gpu("gpu-1", cores=second, **changes)  # type: ignore[arg-type]


def lacks(on: str, needs: int, free: int) -> str:
    """What is said where the engines on these GPUs need more cores than are free for them."""
    return f"engines on {on} of host need {needs} host cores, {free} are free for them"


TWO_EACH = hungry("a", 2, "gpu-0"), hungry("b", 2, "gpu-1")
BESIDE_CPU = placed(on_cores("b", 5, 1), on="cpu", cores=(1,))
WITH_CPU = gpu("gpu-0", cores=(0, 1)), cpu(2)
SPARE_GPU = gpu("gpu-2", cores=tuple(range(2, 12)))
THREE = *TWO_EACH, hungry("c", 2, "gpu-2")


def test_engines_on_gpus_need_cores_of_the_host() -> None:
    """Any of them together divide what their lists name: the cores of others are no help."""
    for devices, here, says in (
        (pair((0, 1), (0, 1)), (hungry("a", 2, "gpu-0"),), ""),
        (pair((0, 1), (0, 1)), (hungry("a", 3, "gpu-0"),), lacks("gpu-0", 3, 2)),
        (pair((0, 1), (1, 2)), TWO_EACH, lacks("gpu-0, gpu-1", 4, 3)),
        (pair((0, 1), (1, 2, 3)), TWO_EACH, ""),
        (pair((0, 1), (0, 1), host="h2"), TWO_EACH, ""),
        (pair((), (0,)), (hungry("a", 7, "gpu-0"), hungry("b", 1, "gpu-1")), ""),
        # An idle GPU with cores of its own makes no room for two that share theirs.
        ((*pair((0, 1), (0, 1)), SPARE_GPU), TWO_EACH, lacks("gpu-0, gpu-1", 4, 2)),
        ((*pair((0, 1), (0, 1)), SPARE_GPU), THREE, lacks("gpu-0, gpu-1", 4, 2)),
        # Cores pass from one to another: the last finds one that the first gives up.
        (
            (*pair((0, 1, 2), (0, 1)), gpu("gpu-2", cores=(2, 3))),
            THREE,
            lacks("gpu-0, gpu-1", 4, 3),
        ),
        (
            (*pair((0, 1), (1, 2)), gpu("gpu-2", cores=(0, 2))),
            (hungry("a", 1, "gpu-0"), hungry("b", 1, "gpu-1"), THREE[2]),
            lacks("gpu-0, gpu-1, gpu-2", 4, 3),
        ),
        (WITH_CPU, (hungry("a", 2, "gpu-0"), BESIDE_CPU), lacks("gpu-0", 2, 1)),
        ((WITH_CPU[0], cpu(2, host="h2")), (hungry("a", 2, "gpu-0"), BESIDE_CPU), ""),
    ):
        assert wrong(devices, *here) == lines(says)


def in_memory(gib: float, on: str = "gpu-0", model: str = "a") -> Placement:
    """An engine on a GPU that takes memory of the host, too."""
    return placed(point(model, 5, 1, host_gib=gib), on=on)


CPU_ROOM = 24 * GIB - headroom(24 * GIB)
FULL_CPU = placed(bytes_more(on_cores("c", 5, 1, 1), CPU_ROOM - GIB), on="cpu")
TWO = in_memory(6), in_memory(5, "gpu-1", "b")
TEN = (("host", 10 * GIB),)
GPU, AND_CPU = (gpu(),), (gpu(), cpu())


def with_cpu(**changes: object) -> tuple[Device, ...]:
    """A GPU and a CPU that is changed like this."""
    return gpu(), dataclasses.replace(cpu(), **changes)  # type: ignore[arg-type]


def test_engines_need_memory_of_the_host() -> None:
    """The stated one or what the CPU device has, whichever is less; replicas on the CPU share it.

    1e-9 GiB are one byte.
    """
    for devices, here, stated, over in (
        (GPU, (in_memory(10),), TEN, False),
        (GPU, (in_memory(10),), (("host", 10 * GIB - 1),), True),
        (GPU, (in_memory(10),), (("other", 0),), False),
        ((gpu(), gpu("gpu-1")), TWO, TEN, True),
        ((gpu(), gpu("gpu-1", host="h2")), TWO, TEN, False),
        (AND_CPU, (in_memory(24),), (), True),
        (AND_CPU, (in_memory(23),), (("host", 22 * GIB),), True),
        (AND_CPU, (in_memory(24),), (("host", 25 * GIB),), True),
        (AND_CPU, (in_memory(0), FULL_CPU), (), False),
        (AND_CPU, (in_memory(1e-9), FULL_CPU), (), True),
        (with_cpu(reserved_bytes=Bytes(GIB)), (in_memory(22.3),), (), True),
        (with_cpu(free_bytes=Bytes(23 * GIB)), (in_memory(22.3),), (), True),
    ):
        found = wrong(devices, *here, memory=stated)
        assert len(found) == over
        assert all(x.startswith("engines on host need ") and "of host memory, " in x for x in found)


def test_a_partition_on_the_cpu_counts_as_it_is_and_its_candidate_takes_nothing_more() -> None:
    """`host_memory_bytes` of a candidate on cores is counted in its footprint."""
    twice = dataclasses.replace(on_cores("a", 5, 1, 4), host_memory_bytes=Bytes(900 * GIB))
    assert wrong(cpu(), placed(twice, on="cpu")) == ()
    found = wrong(cpu(), placed(on_cores("a", 5, 1, 4), on="cpu", memory_bytes=Bytes(CPU_ROOM + 1)))
    assert [line.partition(" need")[0] for line in found] == ["cpu", "engines on host"]


# -- MIG -------------------------------------------------------------------------------------

Cut = tuple[str, int, int]
NO_PROFILE = "gpu-0 has no MIG profile"
ONE_MEDIA = "gpu-0 has 2 instances of 1g.10gb+me, it can have 1"


def cut(*cuts: Cut, gib: float = 8) -> tuple[Placement, ...]:
    """Replicas in GPU instances: MIG profile, first memory slice, memory slices."""
    return tuple(
        placed(in_mig("m", 1, name, gib), n, slice_start=start, slice_count=size)
        for n, (name, start, size) in enumerate(cuts, start=1)
    )


def both(number: int) -> str:
    """Two replicas in one memory slice."""
    return f"memory slice {number} of gpu-0 belongs to both m-1 and m-2"


def cannot_start(name: str, start: int) -> str:
    return f"an instance of {name} cannot start at slice {start}"


def test_what_the_driver_makes_is_accepted_and_what_it_refuses_is_refused() -> None:
    for cuts, says in (
        ([("3g.40gb", 0, 4), ("3g.40gb", 4, 4)], ""),
        ([("1g.10gb", n, 1) for n in range(7)], ""),
        ([("1g.20gb", n, 2) for n in (0, 2, 4, 6)], ""),
        ([("2g.20gb", n, 2) for n in (0, 2, 4)], ""),
        ([("4g.40gb", 0, 4), ("2g.20gb", 4, 2), ("1g.10gb+me", 6, 1)], ""),
        ([("7g.80gb", 0, 8)], ""),
        ([("3g.40gb", 0, 4), ("2g.20gb", 2, 2)], f"{both(2)} | {both(3)}"),
        ([("1g.10gb", 3, 1), ("1g.20gb", 2, 2)], both(3)),
        ([("3g.40gb", 2, 4)], cannot_start("3g.40gb", 2)),
        ([("1g.10gb", 7, 1)], cannot_start("1g.10gb", 7)),
        ([("4g.40gb", 4, 4)], cannot_start("4g.40gb", 4)),
        ([("7g.80gb", 1, 8)], cannot_start("7g.80gb", 1)),
        ([("2g.20gb", 0, 1)], "m-1 covers 1 memory slices of gpu-0, 2g.20gb has 2"),
        ([("1g.10gb", 0, 2)], "m-1 covers 2 memory slices of gpu-0, 1g.10gb has 1"),
        ([("2g.10gb", 0, 2)], f"{NO_PROFILE} 2g.10gb, which m-1 needs"),
        # What no profile describes is passed over, and the rest is looked at.
        (
            [("none", 0, 1), ("1g.10gb", 7, 1)],
            f"{NO_PROFILE} none, which m-1 needs | {cannot_start('1g.10gb', 7)}",
        ),
        ([("1g.10gb+me", 0, 1), ("1g.10gb+me", 1, 1)], ONE_MEDIA),
    ):
        assert wrong(device(), *cut(*cuts)) == lines(says)


def test_the_driver_s_own_list_of_profiles_counts_before_the_catalog_s() -> None:
    eighth = MigProfile("1g.10gb", 1, 1, 14, Bytes(10 * GIB), 9, starts=tuple(range(1, 9)))
    there = device(mig_profiles=(eighth,))
    for cuts, says in (
        ([("1g.10gb", 7, 1)], ""),
        ([("1g.10gb", 0, 1)], cannot_start("1g.10gb", 0)),
        ([("2g.20gb", 0, 2)], f"{NO_PROFILE} 2g.20gb, which m-1 needs"),
        ([("1g.10gb", n, 1) for n in range(1, 9)], "gpu-0 holds 8 replicas, mig allows 7"),
    ):
        assert wrong(there, *cut(*cuts)) == lines(says)
    unknown = dataclasses.replace(device(), hardware="of tomorrow")
    size = dataclasses.replace(in_mig("m", 1, "1g.10gb"), hardware="of tomorrow")
    here = placed(size, slice_count=1)
    assert wrong(unknown, here) == (f"{NO_PROFILE} 1g.10gb, which m-1 needs",)
    listed = dataclasses.replace(unknown, mig_profiles=(dataclasses.replace(eighth, starts=(0,)),))
    assert wrong(listed, here) == ()


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
MEDIA = MigInstance("1g.10gb+me", 3, 1, Bytes(9 * GIB), "MIG-1")
UNNAMED, BUSY = dataclasses.replace(IDLE, uuid=""), dataclasses.replace(IDLE, busy=True)
ANEW = "gpu-0 may not be cut anew, and m-1 has no idle instance there"
SHORT = "m-1 covers 1 memory slices of gpu-0, 1g.20gb has 2"
TAKEN = "memory slice {} of gpu-0 belongs to both others and m-1"
OTHERS = " | ".join(TAKEN.format(n) for n in (2, 3))


def test_instances_that_exist_are_used_or_give_way() -> None:
    for there, fixed, others, where, says in (
        # Slices of others are not taken.
        (None, False, (1,), ("2g.20gb", 2, 2), ""),
        (None, False, (1,), ("2g.20gb", 0, 2), TAKEN.format(1)),
        # An idle instance is used as it is, whoever made it, and where a new one could not start.
        (IDLE, False, (), ("1g.20gb", 2, 2), ""),
        (IDLE, True, (), ("1g.20gb", 2, 2), ""),
        (IDLE, True, (2, 3), ("1g.20gb", 2, 2), ""),
        (dataclasses.replace(IDLE, slice_start=1), True, (1, 2), ("1g.20gb", 1, 2), ""),
        # It is the one at exactly that place, and of exactly that profile and length.
        (IDLE, True, (), ("1g.20gb", 4, 2), ANEW),
        (IDLE, True, (), ("1g.20gb", 2, 1), f"{ANEW} | {SHORT}"),
        # It is busy, or CUDA cannot be told of it.
        (UNNAMED, True, (), ("1g.20gb", 2, 2), ANEW),
        (UNNAMED, False, (2, 3), ("1g.20gb", 2, 2), OTHERS),
        (BUSY, False, (), ("1g.20gb", 2, 2), OTHERS),
        (BUSY, True, (), ("1g.20gb", 2, 2), f"{ANEW} | {OTHERS}"),
        # What is ours and idle gives way to a new cut; what others hold beside it stays.
        (IDLE, False, (), ("3g.40gb", 0, 4), ""),
        # What stays counts among the instances of its profile.
        (dataclasses.replace(MEDIA, busy=True), False, (), ("1g.10gb+me", 0, 1), ONE_MEDIA),
        (MEDIA, False, (3,), ("1g.10gb+me", 0, 1), ONE_MEDIA),
        (MEDIA, False, (4,), ("1g.10gb+me", 0, 1), ""),
        (MEDIA, False, (), ("1g.10gb+me", 0, 1), ""),
    ):
        exist = (there,) if there is not None else ()
        on = device(mig_instances=exist, mig_fixed=fixed, occupied_slices=others)
        assert wrong(on, *cut(where)) == lines(says)


def test_an_instance_that_exists_has_the_memory_that_its_driver_reports() -> None:
    for reported, room in ((Bytes(12 * GIB), 12 * GIB), (Bytes(0), 9728 * MIB)):
        there = MigInstance("1g.10gb", 0, 1, reported, "MIG-1")
        fits = bytes_more(in_mig("m", 1, "1g.10gb", 0), room - headroom(room))
        assert wrong(device(mig_instances=(there,)), placed(fits)) == ()
        assert len(wrong(device(mig_instances=(there,)), placed(bytes_more(fits, 1)))) == 1
