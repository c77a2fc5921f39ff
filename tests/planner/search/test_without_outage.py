"""What serves today goes on serving: a plan that would cause an outage starts replicas instead."""

import dataclasses
import time
import types
from collections.abc import Callable

import pytest

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import PlacementRules, Slo
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.diff import diff_cost
from partitiond.core.plan.record import (
    Candidate,
    ModelDemand,
    Objective,
    Placement,
    Plan,
    diff_plans,
)
from partitiond.core.units import GIB, Bytes
from partitiond.planner import api
from partitiond.planner.check import check_plan
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import Instance, PlanRequest
from partitiond.planner.pack.members import Member
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import packing_of, running_packing
from partitiond.planner.progress.answer import SolveAnswer
from partitiond.planner.search.nearest import LEAVES, OUTAGE, nearest_goodput
from partitiond.planner.search.portfolio import solve_portfolio
from partitiond.planner.stop import never
from tests.planner.build import FREE, gpu, gpus, point, want
from tests.planner.check.make import placed
from tests.planner.problems import plan_for

A100 = gpus(2)
L4 = tuple(gpu(f"l4-{n}", gib=20, hardware="l4-24gb") for n in range(2))
CODER = point("coder", 2.17, 41)
SIZES = CODER, point("coder", 6, 70), point("coder", 1, 18, hardware="l4-24gb")
CHAT, DOCS = point("chat", 9, 28), point("docs", 9, 50)
RUNNING = placed(CODER, on="g0"), placed(CHAT, on="g0"), placed(DOCS, on="g1")


def fleet(
    rate: float,
    *more: ModelDemand,
    devices: tuple[Device, ...] = (*A100, *L4),
    running: tuple[Placement, ...] = RUNNING,
    sizes: tuple[Candidate, ...] = SIZES,
    objective: Objective = Objective.MIN_DEVICES,
    **changes: object,
) -> PlanRequest:
    """Three models run on two GPUs beside two small ones that are idle, and the demand for one of
    them grew. All of 5 requests/s takes a GPU that is emptied first, of that model and of another.
    """
    coder = want("coder", *sizes, rate=rate, **changes)
    models = coder, want("chat", CHAT, rate=8), want("docs", DOCS, rate=8), *more
    return PlanRequest(
        devices,
        models,
        running=running,
        objective=objective,
        deterministic=True,
        time_limit_seconds=2.0,
        interference=FREE,
        move_price=0.25,
        allow_outage=False,
    )


def planned(request: PlanRequest) -> Plan:
    """The plan, which is checked and has no outage."""
    made = plan_for(request)
    memory, before = request.host_memory_bytes, request.before
    assert check_plan(made, request.models, request.interference, memory, before) == ()
    return made


def served(made: Plan) -> dict[str, float]:
    """The requests/s that each model gets."""
    return {f.model: f.capacity_req_per_s for f in made.forecasts}


def test_what_is_asked_again_takes_half_of_the_time_limit_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits, real = list[float](), solve_portfolio

    def spy(instance: Instance, *more: object) -> SolveAnswer:
        limits.append(instance.request.time_limit_seconds)
        return real(instance, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(api, "solve_portfolio", spy)
    assert planned(fleet(5)).held_back
    first, *again = limits
    assert 0 < sum(again) <= first / 2


def without_one(instance: Instance) -> Packing:
    """What runs, but for a model whose size is none of its candidates any more."""
    packing = running_packing(instance)
    packing.remove(0, packing.loads[0].items[-1])
    return packing


@pytest.mark.parametrize(
    ("beside", "asked"),
    [(running_packing, 1), (without_one, 3), (Packing, 3), (lambda _instance: None, 3)],
)
def test_nothing_is_asked_after_the_time_limit_but_what_there_is_no_plan_without(
    monkeypatch: pytest.MonkeyPatch, beside: Callable[[Instance], Packing | None], asked: int
) -> None:
    late, real = list[SolveAnswer](), solve_portfolio

    def spy(instance: Instance, *more: object) -> SolveAnswer:
        found = real(instance, *more)  # type: ignore[arg-type]
        late.append(dataclasses.replace(found, beside=beside(instance)))
        return late[-1]

    clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + 9 * len(late))
    monkeypatch.setattr(api, "time", clock)
    monkeypatch.setattr(api, "solve_portfolio", spy)
    made = planned(dataclasses.replace(fleet(5), deterministic=False))
    assert served(made)["coder"] == pytest.approx(4.17)
    assert len(late) == asked


@pytest.mark.parametrize("changes", [{}, {"min_replicas": 1, "allow_outage": True}])
def test_what_serves_today_and_could_stay_is_not_stopped_for_good(
    changes: dict[str, object],
) -> None:
    """`x` runs at a size of the past, and no plan with its new one has no outage."""
    big, small, d = point("coder", 5, 70), point("coder", 5, 35), point("d", 6, 38)
    old, new = point("x", 4, 40, batch=32), want("x", point("x", 4, 43), rate=4, **changes)
    made = planned(
        dataclasses.replace(
            fleet(5, objective=Objective.MAX_GOODPUT, devices=A100),
            models=(want("coder", big, small, rate=5), new, want("d", d, rate=6)),
            running=(placed(big, on="g0"), placed(old, on="g1"), placed(d, on="g1")),
        )
    )
    assert served(made) == {"coder": 5, "x": 4, "d": 6}


OBJECTIVES = Objective.MIN_DEVICES, Objective.MIN_PRICE, Objective.MAX_GOODPUT, Objective.MAX_MIN


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_more_demand_is_served_on_idle_devices_where_a_change_would_be_an_outage(
    objective: Objective,
) -> None:
    """The plan serves 4.17 of 5, says for what outage it would serve all, and is not optimal."""
    made = planned(fleet(5, objective=objective))
    diff = diff_plans(RUNNING, made.placements)
    assert (diff.move, diff.stop, len(diff.keep)) == ((), (), 3)
    assert {(p.model, p.device_id) for p in diff.start} == {("coder", "l4-0"), ("coder", "l4-1")}
    assert served(made) == pytest.approx({"coder": 4.17, "chat": 9, "docs": 9})
    (lacks,) = made.unplaced
    assert lacks.model == "coder"
    assert lacks.missing_req_per_s == pytest.approx(0.83)
    assert made.explanation.count(lacks.reason) == 1
    assert made.certificate.partial
    assert "optimal" not in made.certificate.optimal_words
    if objective.is_cost:  # the best plan by the others has no outage
        (held,) = made.held_back
        assert held.missing_req_per_s == lacks.missing_req_per_s
        assert "--allow-outage" in lacks.reason


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_answer_beside_what_runs_is_none_where_it_serves_less(objective: Objective) -> None:
    """A new release of a model that takes the device alone, and has too little in any plan."""
    old = dataclasses.replace(CODER, release="1", size=PartitionSize(SharingMode.WHOLE, 1, 100))
    new = dataclasses.replace(old, release="2")
    request = dataclasses.replace(
        fleet(9, objective=objective),
        devices=A100[:1],
        models=(want("coder", new, rate=9),),
        running=(placed(old, on="g0"),),
    )
    made = planned(request)
    assert made.placements == request.running
    assert [held.model for held in made.held_back] == ["coder"]
    assert served(made) == {"coder": 2.17}


@pytest.mark.parametrize("more", [0.0, 1.0])
def test_a_model_that_keeps_another_one_waiting_is_held_back(more: float) -> None:
    """Its smaller size has no room beside the one that runs, and leaves room for the other model.

    Where not all can be served anyway, both are plans for the most goodput, one with an outage.
    """
    large, small, other = point("a", 5, 70), point("a", 5, 15), point("b", 3, 60)
    request = dataclasses.replace(
        fleet(5),
        devices=A100[:1],
        models=(want("a", large, small, rate=5), want("b", other, rate=3 + more)),
        running=(placed(large, on="g0"),),
    )
    made = planned(request)
    assert made.placements == request.running
    held = [(one.model, one.missing_req_per_s, one.seconds > 0) for one in made.held_back]
    assert held == ([] if more else [("a", 0.0, True)])
    assert any("--allow-outage" in line for line in made.explanation)
    assert not more or any("8 would take an outage" in line for line in made.explanation)


def test_a_new_model_takes_nothing_from_one_that_serves() -> None:
    """A first replica is worth what it serves, unless a least number asks for it."""
    large, small, new = point("a", 10, 70), point("a", 3, 35), point("b", 3, 35)
    request = dataclasses.replace(
        fleet(5),
        devices=A100[:2],
        models=(want("a", large, small, rate=20), want("b", new, rate=10)),
        running=(placed(large, 1, "g0"), placed(large, 2, "g1")),
    )
    assert served(planned(request)) == {"a": 20.0, "b": 0.0}


def test_least_numbers_are_not_met_where_one_leaves_that_has_to_stay() -> None:
    """Both plans are for the most goodput; the one with two of `b` has no place for `a`."""
    a, b = point("a", 5, 40), point("b", 5, 40)
    models = want("a", a, rate=5), want("b", b, rate=5, min_replicas=2)
    goodput = Objective.MAX_GOODPUT
    instance = build_instance(PlanRequest(gpus(1), models, objective=goodput, interference=FREE))
    item = {it.candidate.model: it.index for it in instance.items}
    option = next(k for k, o in enumerate(instance.groups[0].options) if o.mode is not None)
    kept, best = Packing(instance), Packing(instance)
    for packing, names in ((kept, "ab"), (best, "bb")):
        for name in names:
            packing.add(0, item[name], option)
    members, two = [Member("", best), Member("", kept)], instance.needs[1].model
    for objection, number in ((0, 2), (1, 2), (OUTAGE, 2), (LEAVES, 1)):
        found = nearest_goodput(
            instance,
            members,
            may=lambda p, worst=objection: worst if p.counts[two] == 2 else 0,  # type: ignore[misc]
            stop=never,
        )
        assert found.packing.counts[two] == number


def test_what_fills_a_plan_may_meet_a_least_number() -> None:
    """A second `a` serves more than a first `b`, which has to be there."""
    a, b = point("a", 50, 70), point("b", 1, 60)
    models = want("a", a, rate=100), want("b", b, rate=1, min_replicas=1)
    running = (placed(a, on="g0"),)
    asked = PlanRequest(gpus(2), models, objective=Objective.MAX_GOODPUT, interference=FREE)
    instance = build_instance(dataclasses.replace(asked, running=running))
    item = {it.candidate.model: it.index for it in instance.items}
    option = next(k for k, o in enumerate(instance.groups[0].options) if o.mode is not None)
    few, full = Packing(instance), Packing(instance)
    for packing, devices in ((few, 1), (full, 2)):
        for device in range(devices):
            packing.add(device, item["a"], option)
    found = nearest_goodput(
        instance, [Member("few", few), Member("full", full)], may=lambda _: 0, stop=never
    )
    assert (found.name, found.packing.short_replicas()) == ("few", 0)


def test_what_one_start_serves_is_started_and_nothing_is_held_back() -> None:
    made = planned(fleet(3))
    diff = diff_plans(RUNNING, made.placements)
    assert ([p.model for p in diff.start], diff.move, diff.stop) == (["coder"], (), ())
    assert (made.held_back, made.unplaced, made.certificate.value) == ((), (), 3)
    assert not made.certificate.partial


def test_a_model_that_cannot_stay_does_not_fail_the_plan() -> None:
    """Others took memory of the device where it runs: its outage is in every plan."""
    large, small = point("large", 5, 60), point("large", 4, 30, batch=4)
    third = gpu("g2", free_bytes=Bytes(50 * GIB), hardware="h100-80gb")
    there, fits = (dataclasses.replace(c, hardware="h100-80gb") for c in (large, small))
    request = fleet(
        5,
        want("large", there, fits, rate=3),
        devices=(*A100, *L4, third),
        running=(*RUNNING, placed(there, on="g2")),
    )
    made = planned(request)
    assert served(made) == pytest.approx({"coder": 4.17, "chat": 9, "docs": 9, "large": 4})
    cost = diff_cost(diff_plans(request.running, made.placements), made.devices)
    assert [outage.model for outage in cost.outages] == ["large"]
    assert [held.model for held in made.held_back] == ["coder"]


def test_an_engine_that_is_asked_for_no_more_stays_until_there_is_room_for_another() -> None:
    """Its batch was changed, and what it was started with is no candidate any more."""
    sizes = tuple(dataclasses.replace(c, batch=16) for c in SIZES)
    made = planned(fleet(2.1, sizes=sizes))
    assert diff_plans(RUNNING, made.placements).is_empty
    assert [held.model for held in made.held_back] == ["coder"]
    assert made.unplaced == ()
    more = planned(fleet(2.1, sizes=sizes, devices=(*gpus(3), *L4)))
    assert {p.candidate.batch for p in more.placements if p.model == "coder"} == {16}
    assert not more.held_back


def test_a_release_that_waits_does_not_stop_those_of_other_models() -> None:
    """Of two models with a new release only one has room beside what runs."""
    sizes = tuple(dataclasses.replace(c, release="2") for c in SIZES[:1])
    chat = dataclasses.replace(CHAT, release="2", memory_bytes=Bytes(18 * GIB))
    old = [dataclasses.replace(p.candidate, release="1") for p in RUNNING]
    running = tuple(dataclasses.replace(p, candidate=c) for p, c in zip(RUNNING, old, strict=True))
    request = fleet(2, sizes=sizes, devices=A100, running=running)
    request = dataclasses.replace(
        request, models=(request.models[0], want("chat", chat, rate=8), request.models[2])
    )
    made = planned(request)
    assert {p.model: p.candidate.release for p in made.placements} == {
        "coder": "1", "chat": "2", "docs": "",
    }  # fmt: skip
    assert [held.model for held in made.held_back] == ["coder"]


def test_new_replicas_keep_the_rules_that_old_ones_need_not_keep() -> None:
    for changes, replicas in (
        ({"max_replicas": 1}, 1),
        ({"rules": PlacementRules(only_on=("g0", "l4-0"))}, 2),
        ({"rules": PlacementRules(avoid=("chat",))}, 3),
        ({"slo": Slo(0.1, 0.01)}, 3),
    ):
        made = planned(fleet(5, **changes))
        mine = [p for p in made.placements if p.model == "coder"]
        assert RUNNING[0] in mine
        assert len(mine) == replicas


def test_replicas_that_stay_are_company_and_are_avoided() -> None:
    """A new model must be near the one that is held back, or never shares a device with it."""
    tiny = point("tiny", 1, 1)
    for rules, on in (
        (PlacementRules(near=("coder",)), {"g0", "g1", "l4-0", "l4-1"}),
        (PlacementRules(avoid=("coder",)), {"g1"}),
    ):
        made = planned(fleet(5, want("tiny", tiny, rate=1, rules=rules)))
        (there,) = (p.device_id for p in made.placements if p.model == "tiny")
        assert there in on


def test_what_lacks_its_company_may_leave_for_more_than_it_gives() -> None:
    """The last two fit g1 together; the first, which serves more alone, is found by completing."""
    some, here = (("h1", 6, 45), ("h2", 4.5, 38), ("h3", 4.5, 38)), PlacementRules(only_on=("g1",))
    lonely, company, last = point("l", 5, 40), point("m", 5, 38), point("x", 2, 30)
    models = (
        want("l", lonely, rate=5, rules=PlacementRules(near=("m",))), want("m", company, rate=5),
        *(want(name, point(name, rate, gib), rate=rate, rules=here) for name, rate, gib in some),
        want("x", last, rate=4),
    )  # fmt: skip
    running = [placed(lonely, on="g0"), placed(company, on="g0"), placed(lonely, 2, on="g1"),
               placed(last, on="g2"), placed(last, 2, on="g3")]  # fmt: skip
    hosts = tuple(gpu(f"g{n}", host=f"h{n}") for n in range(4))
    request = fleet(5, devices=hosts, running=tuple(running), objective=Objective.MAX_GOODPUT)
    made = planned(dataclasses.replace(request, models=models, move_price=20.0))
    assert {"h2", "h3"} <= {p.model for p in made.placements}


def test_new_neighbours_do_not_slow_down_replicas_that_stay_for_less_than_they_take() -> None:
    """The one place that is left for a new model is beside a replica that goes on serving."""
    levels = Interference((1.0, 1.5), (1.0, 1.5), 0.0, 0.0, 0.0)
    alone = placed(CODER, on="g0"), placed(point("docs", 9, 75), on="g1")
    for rate, served_too in ((0.05, False), (3.0, True)):
        tiny = point("tiny", 6, 10, busy=1.0)
        request = fleet(5, devices=A100, running=alone)
        coder = dataclasses.replace(CODER, busy=0.5)
        models = (
            want("coder", coder, dataclasses.replace(SIZES[1], busy=0.5), rate=5),
            want("docs", alone[1].candidate, rate=8),
            want("tiny", tiny, rate=rate),
        )
        made = planned(dataclasses.replace(request, models=models, interference=levels))
        assert (served(made)["tiny"] > 0) is served_too
        assert served(made)["coder"] == pytest.approx(2.17 / 1.5 if served_too else 2.17)


def test_superfluous_replicas_stop_while_another_model_is_held_back() -> None:
    other = dataclasses.replace(CHAT, hardware="h100-80gb")
    request = fleet(
        5,
        devices=(*A100, *L4, gpu("g2", hardware="h100-80gb")),
        running=(*RUNNING, placed(other, 2, "g2")),
    )
    chat = dataclasses.replace(request.models[1], candidates=(CHAT, other))
    made = planned(
        dataclasses.replace(request, models=(request.models[0], chat, request.models[2]))
    )
    assert [p.replica_id for p in diff_plans(request.running, made.placements).stop] == ["chat-2"]
    assert served(made)["coder"] == pytest.approx(4.17)


def test_a_size_that_starts_beside_one_that_draws_less_is_a_size_all_the_same() -> None:
    """What runs is a size of a model that is held back: it would beat the one asked for."""
    old = point("a", 10, 60, mode=SharingMode.WHOLE, watts=10.0)
    new = dataclasses.replace(old, batch=16, memory_bytes=Bytes(10 * GIB), watts=30.0)
    both = placed(new, on="g0"), placed(old, 2, on="g1")
    models = (want("a", new, old, rate=20),)
    devices = gpus(2, idle_watts=60.0)
    request = PlanRequest(devices, models, both[1:], objective=Objective.MIN_ENERGY)
    assert packing_of(build_instance(request), both) is None
    packing = packing_of(build_instance(request, both), both)
    assert packing is not None
    assert not packing.lacking()
