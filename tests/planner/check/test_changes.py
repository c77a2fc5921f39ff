"""What a plan does to running replicas is counted, priced and allowed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.model.spec import Isolation, PlacementRules, Slo
from partitiond.core.plan.record import HeldBack, ModelDemand, Objective, Placement
from partitiond.core.units import GIB, Bytes
from partitiond.planner.check import Before
from tests.planner.build import gpu, point, want
from tests.planner.check.make import lines, placed, said

A, B = point("a", 6, 10), point("b", 3, 10)
DEMANDS = want("a", A), want("b", B)
FLEET = tuple(
    gpu(f"g{n}", price_per_hour=2.0 + n, max_watts=100.0 + n, idle_watts=10.0 + n) for n in range(3)
)
OLD, NEW = placed(A, on="g1"), placed(A, on="g0")


def after(
    running: Sequence[Placement],
    here: Sequence[Placement],
    demands: Sequence[ModelDemand] = DEMANDS[:1],
    devices: Sequence[Device] = FLEET,
    **more: object,
) -> tuple[str, ...]:
    """What is said of a plan where these ran before; `more` is of `Before` and of the plan."""
    names = [f.name for f in dataclasses.fields(Before)]
    known = {name: more.pop(name) for name in names if name in more}
    before = Before(tuple(running), **known)  # type: ignore[arg-type]
    return said(devices, here, demands, before=before, **more)  # type: ignore[arg-type]


# -- prices ---------------------------------------------------------------------------------


def test_a_move_costs_so_many_devices_or_percent() -> None:
    """Of a fleet of several kinds, as many of the mean one."""
    for objective, own, price in (
        (Objective.MIN_DEVICES, 1.0, 4.0),
        (Objective.MIN_PRICE, 2.0, 12.0),
        (Objective.MIN_ENERGY, 70.0, 44.0),
        (Objective.MAX_GOODPUT, 6.0, 0.04),
        (Objective.MAX_MIN, 6.0, 0.04),
    ):
        assert at_price(objective, own, price) == ()
        assert at_price(objective, own, price * (1 + 1e-12)) == ()
        says = f"the certificate prices a move at {price * 1.01:.6g}, it costs {price:.6g}"
        assert at_price(objective, own, price * 1.01) == (says,)


def at_price(
    objective: Objective, own: float, price: float, devices: Sequence[Device] = FLEET
) -> tuple[str, ...]:
    """What is said of one move of a replica that uses 60 W to the first device at such a price."""
    size, value = dataclasses.replace(A, watts=60.0), own * (1 - price)
    if objective.is_cost:
        value = own + price
    old = placed(size, 2, devices[-2 % len(devices)].id)
    claim: dict[str, object] = {"moves": 1, "move_price": price, "objective": objective}
    claim |= {"value": value, "value_without_moves": own, "bound_without_moves": own}
    before, model = Before((old,), 4.0), (want("a", size),)
    return said(devices, (placed(size, on="g0"),), model, before=before, **claim)  # type: ignore[arg-type]


def test_moves_cost_nothing_where_nothing_runs_or_no_price_is_set() -> None:
    for running, price in (((), 4.0), ((OLD,), 0.0), ((OLD,), -1.0)):
        before = Before(running, price)
        assert said(FLEET, (NEW,), DEMANDS[:1], before=before) == ()
        moved = said(FLEET, (NEW,), DEMANDS[:1], before=before, moves=1)
        assert moved == ("the certificate counts 1 moves, the plan makes 0 to 0",)


# -- moves ----------------------------------------------------------------------------------


def counts(
    low: int,
    high: int,
    running: Sequence[Placement],
    here: Sequence[Placement],
    *,
    demands: Sequence[ModelDemand] = DEMANDS[:1],
    devices: Sequence[Device] = FLEET,
) -> bool:
    """Whether the checker allows a certificate to count so many moves, and no others."""
    own = float(len({p.device_id for p in here}))
    for n in range(high + 2):
        claim = {"value": own + n / 4, "value_without_moves": own, "bound_without_moves": own}
        claim |= {"bound": own + n / 4, "moves": n, "move_price": 0.25}
        found = said(devices, here, demands, before=Before(tuple(running), 0.25), **claim)  # type: ignore[arg-type]
        says = f"the certificate counts {n} moves, the plan makes {low} to {high}"
        assert found == (() if low <= n <= high else (says,))
    return True


def several(*numbers: int, on: str) -> tuple[Placement, ...]:
    """Replicas of `a` with these numbers on a device."""
    return tuple(placed(A, n, on) for n in numbers)


CORDONED = dataclasses.replace(FLEET[2], cordoned=True)


def test_moves_are_replicas_that_were_replaced_and_could_stay() -> None:
    """The device g2 is cordoned, so that nothing could stay there."""
    for running, here, moves in (
        ((OLD,), (NEW,), 1),
        ((OLD,), (OLD,), 0),
        (several(1, on="g1"), several(2, on="g0"), 1),
        # The fewer of those that left and those that came.
        (several(1, 2, on="g1"), several(3, on="g0"), 1),
        (several(1, on="g1"), several(3, 4, on="g0"), 1),
        (several(1, 2, on="g1"), several(3, 4, 5, on="g0"), 2),
        # One that stays neither left nor came.
        (several(1, 2, on="g1"), several(1, on="g1"), 0),
        (several(1, 2, on="g1"), (*several(1, on="g1"), *several(3, on="g0")), 1),
        # What has to leave is replaced by one of those that came.
        ((*several(1, on="g1"), *several(2, on="g2")), several(3, on="g0"), 0),
        ((*several(1, on="g1"), *several(2, on="g2")), several(3, 4, on="g0"), 1),
        (several(1, 2, on="g2"), several(3, 4, on="g0"), 0),
    ):
        assert counts(moves, moves, running, here, devices=(*FLEET[:2], CORDONED))


def changed(**changes: object) -> Placement:
    """The replica that ran, at another point."""
    return placed(dataclasses.replace(A, **changes), on="g1")  # type: ignore[arg-type]


def on_g1(**changes: object) -> tuple[Device, ...]:
    """The fleet, with the device of the replica that ran changed."""
    return (FLEET[0], dataclasses.replace(FLEET[1], **changes), FLEET[2])  # type: ignore[arg-type]


def asks(**changes: object) -> tuple[ModelDemand, ...]:
    """The model, with something more asked."""
    return (dataclasses.replace(DEMANDS[0], **changes),)  # type: ignore[arg-type]


def test_a_replica_that_could_not_stay_is_not_moved() -> None:
    for running, more in (
        (OLD, {"devices": FLEET[:1]}),
        (OLD, {"devices": on_g1(cordoned=True)}),
        (OLD, {"devices": on_g1(max_replicas=0)}),
        (OLD, {"devices": on_g1(modes=(SharingMode.MPS,))}),
        (OLD, {"devices": on_g1(hardware="h100-80gb")}),
        (OLD, {"demands": asks(candidates=(dataclasses.replace(A, release="2"),)), "release": "1"}),
        (changed(batch=9), {}),
        (changed(variant="fp8"), {}),
        (changed(kv_cache_bytes=Bytes(1)), {}),
        (changed(size=dataclasses.replace(A.size, cores=2)), {}),
        (placed(A, on="g1", memory_bytes=Bytes(11 * GIB)), {}),
    ):
        release = str(more.get("release", ""))
        demands = more.get("demands", DEMANDS[:1])
        assert isinstance(demands, tuple)
        here = placed(demands[0].candidates[0], on="g0")
        old = dataclasses.replace(
            running, candidate=dataclasses.replace(running.candidate, release=release)
        )
        devices = more.get("devices", FLEET)
        assert counts(0, 0, (old,), (here,), demands=demands, devices=devices)  # type: ignore[arg-type]


def test_a_share_under_mps_could_stay_in_the_group_of_its_model() -> None:
    for asked in ("", "x"):
        share = point("a", 6, 10, sm=30)
        running = placed(share, on="g1", isolation_group="x")
        here, moves = placed(share, on="g0", isolation_group=asked), int(asked == "x")
        model = want("a", share, isolation_group=asked)
        assert counts(moves, moves, (running,), (here,), demands=(model,))


def test_what_may_have_had_to_move_is_counted_or_not() -> None:
    """Where the checker does not know whether the replica could stay, the solver says so."""
    for candidate, more in (
        (point("a", 6, 10, mode=SharingMode.WHOLE), {}),
        (A, {"devices": on_g1(free_bytes=Bytes(FLEET[1].free_bytes - 1))}),
        (A, {"devices": on_g1(occupied_slices=(1,))}),
        (A, {"devices": on_g1(occupied_sm_percent=1)}),
        (A, {"demands": asks(slo=Slo(9.0, 9.0))}),
        (A, {"demands": asks(rules=PlacementRules(only_on=("g0",)))}),
        (A, {"demands": asks(isolation=Isolation.DEVICE)}),
    ):
        running, here = placed(candidate, on="g1"), placed(candidate, on="g0")
        asked: dict[str, Any] = {"demands": (want("a", candidate),), **more}
        assert counts(0, 1, (running,), (here,), **asked)


def test_what_the_driver_keeps_is_not_missing() -> None:
    kept = on_g1(reserved_bytes=Bytes(GIB), free_bytes=Bytes(FLEET[1].memory_bytes - GIB))
    assert counts(1, 1, (OLD,), (NEW,), devices=kept)


# -- models that are held back --------------------------------------------------------------

HELD = (HeldBack("a", 9.0),)
NONE_STAYS = "a is said to stay as it runs, and none of its replicas does"


def test_of_a_model_that_is_held_back_something_stays() -> None:
    for here, says in (
        ((OLD,), ""),
        ((NEW,), NONE_STAYS),
        ((placed(A, 2, "g1"),), NONE_STAYS),
        ((OLD, placed(A, 2, "g0")), ""),
    ):
        assert after((OLD,), here, asks(allow_outage=True), held_back=HELD) == lines(says)


def test_only_replicas_that_stay_need_not_keep_the_rules() -> None:
    """New ones beside them do, and a limit is that of both."""
    beside = placed(A, 2, "g0")
    for changes, says in (
        ({"rules": PlacementRules(only_on=("g2",))}, "a-2 is on g0, a may only be on g2"),
        (
            {"slo": Slo(0.1, 1e-9)},
            "a-2 would miss the TPOT bound of a on g0",
        ),
        ({"max_replicas": 1}, "a has 2 replicas, at most 1 are wanted"),
        ({"min_replicas": 3}, "a has 2 replicas and is not listed as unplaced"),
    ):
        asked = asks(**changes)
        least = ("a has 1 replicas and is not listed as unplaced",) * ("min_replicas" in changes)
        assert after((OLD,), (OLD,), asked, held_back=HELD) == least
        assert after((OLD,), (OLD, beside), asked, held_back=HELD) == (says,)
    old = several(1, 2, on="g1")
    assert after(old, old, asks(max_replicas=1), held_back=HELD) == ()


def test_what_is_held_back_keeps_its_isolation_and_the_group_it_runs_in() -> None:
    share = point("a", 6, 10, sm=30)
    old = placed(share, on="g1", isolation_group="x")
    asked = want("a", share, isolation_group="y", isolation=Isolation.DEVICE)
    assert after((old,), (old,), (asked,), held_back=HELD) == ()
    beside = placed(point("b", 3, 10, sm=30), on="g1", isolation_group="x")
    demands = asked, want("b", beside.candidate, isolation_group="x")
    assert after((old,), (old, beside), demands, held_back=HELD) == (
        "a-1 wants a device of its own and shares g1",
    )


# -- outages --------------------------------------------------------------------------------

NARROW = (gpu("g0", gib=15),)
LARGER = dataclasses.replace(A, batch=60)
"""Beside 10 GiB of a replica there is no room for 10 more."""


def restart(**more: object) -> tuple[str, ...]:
    """What is said of a restart on a device without room for two."""
    running, here = placed(A, on="g0"), placed(LARGER, on="g0")
    values = {"demands": (want("a", A, LARGER),), "devices": NARROW, "allow_outage": False, **more}
    return after((running,), (here,), **values)  # type: ignore[arg-type]


def test_an_outage_that_is_not_allowed_is_named_with_its_length() -> None:
    """Eight requests in flight are done in 1.3 s, and then the new engine starts."""
    for more, says in (
        ({"start_seconds": (("a", 30.0), ("b", 900.0))}, 31),
        ({"start_seconds": (("a", 300.0),)}, 301),
        ({}, 47),
        ({"allow_outage": True}, None),
        ({"demands": (want("a", A, LARGER, allow_outage=True),)}, None),
        ({"devices": (gpu("g0", gib=21),)}, None),
    ):
        sentence = f"a would have no replica for about {says} s, and an outage is not allowed"
        assert restart(**more) == ((sentence,) if says else ())


def test_an_outage_is_nobodys_choice_where_what_runs_cannot_stay() -> None:
    """Others took memory of its device, its mode is forbidden, or its host has too little."""
    ran = dataclasses.replace(A, host_memory_bytes=Bytes(GIB))
    less = dataclasses.replace(point("a", 6, 6, sm=50), host_memory_bytes=Bytes(GIB // 2))
    cases: tuple[tuple[dict[str, Any], dict[str, Any], bool], ...] = (
        ({}, {}, True),
        ({"free_bytes": Bytes(11 * GIB)}, {}, True),
        ({"free_bytes": Bytes(10 * GIB)}, {}, False),
        ({"modes": (SharingMode.MPS,)}, {}, False),
        ({}, {"memory": (("host", GIB),)}, True),
        ({}, {"memory": (("host", GIB - 1),)}, False),
    )
    for changes, more, out in cases:
        # Beside what is not wanted any more and leaves anyway.
        found = after(
            (placed(ran, on="g0"), placed(point("b", 3, 6), on="g0")),
            (placed(less, on="g0"),),
            (want("a", ran, less),),
            (gpu("g0", gib=15, **changes),),
            allow_outage=False,
            **more,
        )
        assert bool(found) == out, (changes, more, found)
