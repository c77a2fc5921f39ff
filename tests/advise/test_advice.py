"""The advice names the devices that a plan frees, by the real planner on described GPUs."""

import dataclasses
from collections.abc import Sequence

import pytest

from partitiond.advise.advice import Advice, Deployment, advise, notes_on
from partitiond.advise.identify import Known, ServedName, UnidentifiedModel, UserChoices, identify
from partitiond.advise.today import parse_devices
from partitiond.cli.tools.local_advise import plan_on
from partitiond.core.hardware.kinds import Device
from partitiond.core.plan.record import Infeasible, Plan, Unplaced
from tests.advise.looks import of_catalog, traffic_seen

Where = dict[str, tuple[str, ...]]
GPUS = tuple(f"a100-80gb-{n}" for n in range(4))
SMALL, STRANGE = ("opt-125m", 1.0), ("mystery", 1.0)


def four(*models: tuple[str, float], on: Where | None = None) -> Deployment:
    """Four A100s, an engine on each or where they are by `on`."""
    known: list[Known] = []
    strangers: list[UnidentifiedModel] = []
    for traffic in traffic_seen(*((f"e{n}", *model) for n, model in enumerate(models))):
        what = identify(traffic, ServedName(max_model_len=1024), UserChoices(), of_catalog)
        (known if isinstance(what, Known) else strangers).append(what)  # type: ignore[arg-type]
    on = on or {f"e{n}": (GPUS[n],) for n in range(len(models))}
    devices = parse_devices(["4 a100-80gb"])
    return Deployment(devices, on, {}, tuple(known), tuple(strangers), 600.0)


def advised(*models: tuple[str, float], on: Where | None = None) -> Advice:
    return advise(four(*models, on=on), planned)


def planned(known: Sequence[Known], devices: Sequence[Device]) -> Plan | Infeasible:
    return plan_on(known, devices, 2.0)


def test_small_models_with_little_to_do_need_one_device() -> None:
    advice = advised(SMALL, SMALL, ("opt-1.3b", 0.5), ("opt-1.3b", 0.5))
    assert advice.plan is not None
    (used,) = {placement.device_id for placement in advice.plan.placements}
    assert set(advice.freed) == {*GPUS} - {used}
    assert (advice.staying, advice.lacking) == ({}, ())
    (small, _) = advice.today.known
    assert small.spec.demand.req_per_s == small.traffic.rate.high > small.traffic.rate.middle


def test_a_device_without_an_engine_today_is_neither_used_nor_freed() -> None:
    advice = advised(SMALL, SMALL)
    assert (advice.today.used, len(advice.freed)) == (GPUS[:2], 1)
    shared = advised(SMALL, SMALL, SMALL, on=dict.fromkeys(("e0", "e1", "e2"), (GPUS[3],)))
    assert (shared.today.used, shared.freed) == (GPUS[3:], ())


def test_what_is_not_known_or_spans_devices_keeps_its_own() -> None:
    advice = advised(SMALL, SMALL, SMALL, STRANGE)
    assert set(advice.staying) == {GPUS[3]}
    assert len(advice.freed) == 2
    assert GPUS[3] not in advice.freed
    alone = advised(STRANGE)
    assert (alone.plan, alone.freed, set(alone.staying)) == (None, (), {GPUS[0]})
    on = {"e0": (GPUS[0],), "e1": (GPUS[1],), "e2": GPUS[2:]}
    several = advised(SMALL, SMALL, SMALL, on=on)
    assert set(several.staying) == {*GPUS[2:]}
    assert len(several.freed) == 1


def test_an_engine_that_was_seen_once_keeps_its_device() -> None:
    today = four(SMALL, SMALL)
    today = dataclasses.replace(today, on={**today.on, "e2": (GPUS[2],), "e3": (GPUS[3],)})
    advice = advise(dataclasses.replace(today, missed={"e2": "does not answer: refused"}), planned)
    assert set(advice.staying) == {GPUS[2], GPUS[3]}
    assert "does not answer" in advice.staying[GPUS[2]]
    assert len(advice.freed) == 1


def test_a_plan_that_leaves_demand_out_frees_nothing() -> None:
    advice = advised(*[("opt-13b", 500.0)] * 4)
    assert (bool(advice.lacking), advice.freed) == (True, ())
    plan = advised(SMALL, SMALL).plan
    assert plan is not None
    part = dataclasses.replace(plan, unplaced=(Unplaced("m", "too little room"),))
    advice = advise(four(SMALL, SMALL), lambda *_: part)
    assert (advice.lacking, advice.freed) == (("m: too little room",), ())
    none = advise(four(SMALL), lambda *_: Infeasible(("out of luck",), ()))
    assert (none.plan, none.lacking, none.freed) == (None, ("out of luck",), ())


@pytest.mark.parametrize(
    ("figures", "words"),
    [({"refused": 30.0}, "refused"), ({"restarts": 2}, "restart")],
)
def test_what_limits_the_advice_is_said(figures: dict[str, float], words: str) -> None:
    (known,) = four(SMALL).known
    traffic = dataclasses.replace(known.traffic, **figures)  # type: ignore[arg-type]
    told = dataclasses.replace(known, traffic=traffic)
    assert words in " ".join(notes_on([told], 600.0))
    assert words not in " ".join(notes_on([known], 600.0))
    assert "other hours" in notes_on([], 600.0)[0]
    assert notes_on([], 86_400.0) == ()
