"""What a plan leaves out starts beside it, wherever the checker finds room."""

import dataclasses

import pytest

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import MigSlice
from partitiond.core.model.spec import FaultDomain, PlacementRules
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import ModelDemand, Objective, Placement
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.progress import watch
from partitiond.planner.search import single_starts
from partitiond.planner.search.single_starts import with_single_starts
from partitiond.planner.stop import Stop, never
from tests.planner.build import FREE, gpu, gpus, in_mig, point, want
from tests.planner.check.make import placed
from tests.planner.search.test_without_outage import planned, served

A, B = point("a", 5, 50), point("b", 5, 50)


def asked(
    *models: ModelDemand, running: tuple[Placement, ...] = (), devices: tuple[Device, ...] = gpus(2)
) -> PlanRequest:
    return PlanRequest(
        devices, models, running, interference=FREE, allow_outage=False, deterministic=True
    )


def started(
    request: PlanRequest, *there: Placement, idle: bool = False, stop: Stop = never
) -> list[tuple[str, str, str]]:
    """Replica, model and device of what is started beside placements."""
    found = with_single_starts(request, there, idle=idle, stop=stop)
    assert found[: len(there)] == there
    return [(p.replica_id, p.model, p.device_id) for p in found[len(there) :]]


def test_an_instance_that_may_not_move_leaves_room_for_two_of_three() -> None:
    """All three fit where it is in another slot, so any packing says that three fit."""
    runs, new = (
        in_mig(model, 5, profile, hardware="h100-80gb")
        for model, profile in (("b", "1g.10gb+me"), ("a", "2g.20gb"))
    )
    there = placed(runs, on="g", at=MigSlice("g", runs.memory_bytes, "1g.10gb+me", 0, 1))
    device = gpu("g", hardware="h100-80gb", modes=(SharingMode.MIG,))
    models = want("a", new, rate=15, min_replicas=3), want("b", runs, rate=5)
    request = asked(*models, running=(there,), devices=(device,))
    for objective in (Objective.MIN_DEVICES, Objective.MAX_GOODPUT):
        made = planned(dataclasses.replace(request, objective=objective, time_limit_seconds=2.0))
        assert there in made.placements
        assert served(made) == {"a": 10.0, "b": 5.0}


def test_least_numbers_come_first_then_priorities() -> None:
    high = want("b", B, rate=10, rules=PlacementRules(priority=1))
    for least, models in ((0, ["b", "b"]), (1, ["a", "b"])):
        found = started(asked(want("a", A, rate=5, min_replicas=least), high))
        assert sorted(model for _, model, _ in found) == models


def test_a_model_gets_no_more_than_it_lacks_or_may_have() -> None:
    for changes, count in (({"rate": 5}, 0), ({"rate": 6}, 1), ({"rate": 6, "max_replicas": 1}, 0)):
        found = started(asked(want("a", A, **changes)), placed(A, on="g0"))
        assert found == [("a-2", "a", "g1")][:count]


def test_what_starts_where_the_same_engine_runs_is_that_engine() -> None:
    """Else a plan that is made again would stop and start it."""
    kept, ran, larger = placed(A, on="g0"), placed(A, 2, "g1"), placed(point("a", 5, 60), 2, "g1")
    for runs, names in ((ran, ["a-2", "a-3"]), (larger, ["a-3", "a-4"])):
        found = started(asked(want("a", A, rate=15), running=(kept, runs), devices=gpus(3)), kept)
        assert found == [(names[0], "a", "g1"), (names[1], "a", "g2")]


def test_where_only_idle_devices_count_others_are_let_be() -> None:
    small = point("a", 1, 10)
    for idle, number in ((True, 8), (False, 15)):
        devices = asked(want("a", small, rate=99))
        assert len(started(devices, placed(small, on="g0"), idle=idle)) == number


def test_nothing_is_started_that_slows_others_down_or_gains_nothing() -> None:
    levels = Interference((1.0, 2.0), (1.0, 2.0), 0.0, 0.0, 0.0)
    busy = dataclasses.replace(point("a", 5, 20, busy=1.0), batch=16)
    for mine, rate, count in (("a", 5, 0), ("b", 5, 0), ("b", 2, 1)):
        there = placed(point(mine, 5, 20, busy=1.0), on="g0")
        models = (want("a", busy, there.candidate, rate=8), want("b", there.candidate, rate=rate))
        request = dataclasses.replace(
            asked(*models[: 1 if mine == "a" else 2], devices=gpus(1)), interference=levels
        )
        assert len(started(request, there)) == count


def test_nothing_is_started_that_leaves_too_little_after_a_loss() -> None:
    levels = Interference((1.0, 1.3), (1.0, 1.3), 0.0, 0.0, 0.0)
    there = [placed(point("s", 10, 30, busy=0.6), n, on=f"g{n}") for n in (0, 1)]
    for share, models in ((1.0, []), (0.7, ["x", "x"])):
        rules = PlacementRules(survive=FaultDomain.DEVICE, survive_share=share)
        kept = want("s", there[0].candidate, rate=10, rules=rules)
        request = asked(kept, want("x", point("x", 5, 30, busy=0.6), rate=9))
        found = started(dataclasses.replace(request, interference=levels), *there)
        assert [model for _, model, _ in found] == models
        assert len(started(asked(kept))) == 1


def test_a_start_that_takes_the_room_of_one_without_which_a_model_is_out_is_none() -> None:
    """The new `b` starts beside the old one, unless `a`, which serves more, has started there."""
    old, new = placed(point("b", 5, 20), on="g0"), placed(point("b", 5, 30, batch=16), on="g0")
    for gib, count in ((30, 1), (50, 0)):
        models = want("a", point("a", 9, gib), rate=9), want("b", new.candidate, rate=5)
        assert len(started(asked(*models, running=(old,), devices=gpus(1)), new)) == count


def test_a_stop_is_asked_before_each_look() -> None:
    models = asked(want("a", point("a", 1, 10), rate=99))
    for answers in ([True], [False, True], [False, False, True]):
        assert len(started(models, stop=iter(answers).__next__)) == len(answers) - 1


def test_looks_are_shared_by_models_and_one_counts_for_all_devices_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(single_starts, "LOOKS", 200)
    sizes = [dataclasses.replace(point("b", 5, 90), batch=n) for n in range(1, 201)]
    urgent = want("b", *sizes, rate=5, min_replicas=1, rules=PlacementRules(priority=1))
    assert len(started(asked(urgent, want("a", A, rate=10)))) == 2
    devices = tuple(gpu(f"g{n}", host=f"h{n // 8}") for n in range(256))
    there = (placed(A, number, on=d.id) for number, d in enumerate(devices))
    models = want("a", *(point("a", 9, 31 + n) for n in range(9)), A, point("a", 5, 30), rate=9e5)
    assert len(started(asked(models, devices=devices), *there)) == 256


def test_no_idle_device_would_serve_more_however_short_the_time_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither completing what runs, nor a first plan, nor filling it has any time here."""
    monkeypatch.setattr(watch, "FINISH_LEAST", 0.0)
    runs = placed(A, on="g0")
    request = asked(want("a", A, rate=15), running=(runs,), devices=gpus(4))
    made = planned(
        dataclasses.replace(
            request,
            objective=Objective.MAX_GOODPUT,
            time_limit_seconds=1e-9,
            may_search=False,
            deterministic=False,
        )
    )
    assert served(made) == {"a": 15.0}
