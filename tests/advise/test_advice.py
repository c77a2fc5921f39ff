"""The advice names the devices that a plan frees, by the real planner on described GPUs."""

import dataclasses
from typing import Any

import pytest

from partitiond.advise.advice import Advice, Choices, advise, notes_on
from partitiond.advise.identify import Known, ServedName, UnidentifiedModel, UserChoices, identify
from partitiond.advise.knowledge import profiles_for
from partitiond.advise.today import Deployment, parse_devices
from partitiond.advise.traffic import traffic_of
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.planner.model.types import PlanRequest
from tests.advise.looks import of_catalog, window

NOW = "2026-01-01T00:00:00+00:00"
CHOICES = Choices(NOW, time_limit_seconds=2.0)


def seen(*engines: tuple[str, str, float]) -> tuple[list[Known], list[UnidentifiedModel]]:
    """Models of engines given as (address, model, requests/s)."""
    known: list[Known] = []
    strangers: list[UnidentifiedModel] = []
    for traffic in traffic_of(window(a, m, per_second=rate) for a, m, rate in engines):
        what = identify(traffic, ServedName(max_model_len=1024), UserChoices(), of_catalog)
        if isinstance(what, Known):
            known.append(what)
        else:
            strangers.append(what)
    return known, strangers


def advised(*models: tuple[str, float], **today: Any) -> Advice:
    """For four A100s with an engine on each, or where they are by `today`."""
    deployment, known, strangers = four(*models)
    deployment = dataclasses.replace(deployment, **today)
    profiles = {k.spec.name: profiles_for(k, deployment.devices, (), NOW).profiles for k in known}
    return advise(deployment, known, strangers, profiles, seconds=600.0, choices=CHOICES)


def four(*models: tuple[str, float]) -> tuple[Deployment, list[Known], list[UnidentifiedModel]]:
    """Four A100s, an engine on each."""
    devices = parse_devices(["4 a100-80gb"])
    known, strangers = seen(*((f"e{n}", model, rate) for n, (model, rate) in enumerate(models)))
    on = {f"e{n}": (device.id,) for n, device in enumerate(devices)}
    return Deployment(devices, on), known, strangers


SMALL, STRANGE = ("opt-125m", 1.0), ("mystery", 1.0)


def test_small_models_with_little_to_do_need_one_device() -> None:
    advice = advised(SMALL, SMALL, ("opt-1.3b", 0.5), ("opt-1.3b", 0.5))
    assert advice.told_apart
    assert [level.level for level in advice.levels] == ["low", "middle", "high"]
    assert (advice.certain_count, advice.perhaps_count, len(advice.certain)) == (3, 0, 3)
    assert not advice.staying
    assert set(advice.certain) == set(advice.today) - set(advice.levels[-1].used)
    for level in advice.levels:
        assert level.plan is not None
        assert not level.plan.unplaced


def test_what_is_not_known_keeps_its_device_and_does_not_count_as_free() -> None:
    advice = advised(SMALL, SMALL, SMALL, STRANGE)
    assert set(advice.staying) == {"a100-80gb-3"}
    assert advice.certain_count == 2
    assert "a100-80gb-3" not in advice.certain
    alone = advised(STRANGE)
    assert (alone.levels, alone.certain_count) == ((), 0)
    assert set(alone.staying) == {"a100-80gb-0"}
    on = {"e0": ("a100-80gb-0",), "e1": ("a100-80gb-1",), "e2": ("a100-80gb-2", "a100-80gb-3")}
    several = advised(SMALL, SMALL, SMALL, on=on)
    assert set(several.staying) == {"a100-80gb-2", "a100-80gb-3"}
    assert several.certain_count == 1


def test_which_devices_are_free_follows_from_who_is_where() -> None:
    advice = advised(SMALL, SMALL, SMALL, SMALL)
    assert set(advice.certain) == {"a100-80gb-1", "a100-80gb-2", "a100-80gb-3"}
    for models, free in (((SMALL, SMALL, SMALL), 2), ((SMALL, SMALL, STRANGE), 1)):
        advice = advised(*models, on={})
        assert not advice.told_apart
        assert (advice.certain_count, advice.certain, len(advice.today)) == (free, (), 3)
    advice = advised(*[("opt-13b", 500.0)] * 4)
    assert advice.certain_count == advice.perhaps_count == 0
    assert all(level.lacking for level in advice.levels)


def test_uncertain_demand_frees_a_device_only_perhaps() -> None:
    """Between the low and the high end of the demand lies the need for a further device."""
    today, known, strangers = four(*[("opt-125m", 1.0)] * 4)
    answers = iter([2, 1, 1])  # the plan for the high end is made first
    one = advised(*[SMALL] * 4).levels[-1].plan
    assert one is not None

    def solver(request: PlanRequest) -> Plan | Infeasible:
        used = [request.devices[n].id for n in range(next(answers))]
        moved = (dataclasses.replace(one.placements[0], device_id=name) for name in used)
        return dataclasses.replace(one, id=request.plan_id, placements=tuple(moved))

    advice = advise(today, known, strangers, {}, seconds=60, choices=CHOICES, solver=solver)
    assert (advice.certain_count, advice.perhaps_count) == (2, 1)
    assert len(advice.perhaps) == 1
    assert not set(advice.perhaps) & set(advice.certain)


def test_less_demand_never_needs_more_devices() -> None:
    today, known, strangers = four(*[("opt-125m", 1.0)] * 4)
    good = advised(*[SMALL] * 4).levels[-1].plan
    assert good is not None
    plans: list[Plan | Infeasible] = [good, Infeasible(("out of luck",), ()), good]

    advice = advise(
        today, known, strangers, {}, seconds=60, choices=CHOICES,
        solver=lambda _: plans.pop(0),
    )  # fmt: skip
    assert [len(level.used) for level in advice.levels] == [1, 1, 1]
    assert not any(level.lacking for level in advice.levels)


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"refused": 30.0}, "refused"),
        ({"restarts": 2}, "restart"),
    ],
)
def test_what_limits_the_advice_is_said(figures: dict[str, float], words: str) -> None:
    (known,), _ = seen(("a", "opt-125m", 1.0))
    engine = dataclasses.replace(known.traffic.engines[0], **figures)  # type: ignore[arg-type]
    told = dataclasses.replace(known, traffic=dataclasses.replace(known.traffic, engines=(engine,)))
    assert words in " ".join(notes_on([told], 600.0))
    assert words not in " ".join(notes_on([known], 600.0))
    assert "other hours" in notes_on([], 600.0)[0]
    assert notes_on([], 86_400.0) == ()
