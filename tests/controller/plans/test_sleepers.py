"""Plans keep sleeping models, may give their room to other models, and say so."""

import dataclasses

import pytest

from partitiond.controller.plans.planning import (
    PlanMaker,
    PlanOptions,
    running_placements,
    without_model,
)
from partitiond.controller.plans.sleepers import beside_sleepers
from partitiond.controller.runtime.engines import Engine
from partitiond.controller.views.records import model_view
from partitiond.core.dispatch.routing import ModelAvailability
from partitiond.core.errors import ConflictError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.model.spec import EngineOptions
from partitiond.core.plan.record import Unplaced
from partitiond.core.profile.record import ProfileKind
from partitiond.core.replica.sleep import STOPPED, Sleeper
from partitiond.core.replica.states import ReplicaState
from partitiond.planner.model.candidates import candidates_for
from partitiond.store import Store
from tests.controller.fakes import POLICY, FakeClock, FakeRunner, plan_maker
from tests.controller.runtime.test_sleeping import sleeper
from tests.controller.samples import cpu, measured_profile, plan, record, spec

CAN_SLEEP = EngineOptions(sleep_mode=True)


@pytest.fixture
def desk(store: Store) -> PlanMaker:
    for name in ("a", "b"):
        store.add_model(record(name, min_replicas=1, max_replicas=1, engine_kind="simulated"))
        store.add_profile(measured_profile(name, cores=2, engine="simulated"))
    return plan_maker(store, options=PlanOptions(time_limit_seconds=1.0))


ASLEEP = dataclasses.replace(
    sleeper(), partition=CpuCores("cpu", sleeper().partition.memory_bytes, (0, 1))
)


@pytest.mark.parametrize(
    ("asleep", "planned", "word"),
    [
        (1, 1, "asleep"),
        (STOPPED, 1, "scaled to zero"),
        (0, 0, "scaled to zero"),
        (0, 1, "starting"),
    ],
)
def test_who_starts_is_not_said_to_be_asleep(asleep: int, planned: int, word: str) -> None:
    availability = ModelAvailability.SLEEPING
    view = model_view(
        record("a"), availability=availability, planned=[ASLEEP] * planned, engines=(),
        profiles=(), note="", asleep=asleep,
    )  # fmt: skip
    assert view.availability == word


@pytest.mark.parametrize(("level", "state"), [(1, "is asleep (level 1)"), (3, "is scaled to zero")])
async def test_a_sleeper_stays_and_another_model_gets_its_cores(
    desk: PlanMaker, level: int, state: str
) -> None:
    here = desk.situation(
        devices=[cpu()], running=(), sleepers=[Sleeper(ASLEEP, level)], asleep={"a": level}
    )
    preview = await desk.preview(here, None)
    assert [p.model for p in preview.plan.placements] == ["b"]
    assert preview.plan.asleep == (ASLEEP,)
    assert preview.plan.wanted == (*preview.plan.placements, ASLEEP)
    assert preview.diff.stop == ()
    assert preview.plan.devices == (cpu(),)  # engines are held to the whole device, not the rest
    assert any(f"a {state}" in sentence for sentence in preview.plan.explanation)
    assert all(u.model != "a" for u in preview.plan.unplaced)
    assert without_model(preview.plan, "a", "plan-2", "now").asleep == ()


def test_awake_again_where_its_room_was_given_away_it_hears_so(desk: PlanMaker) -> None:
    applied = dataclasses.replace(plan(), asleep=(ASLEEP,))
    unplaced = (Unplaced("a", "nothing is free."), Unplaced("b", "nothing is free."))
    made = dataclasses.replace(plan(), unplaced=unplaced)
    awake = desk.situation(devices=[cpu()], running=applied.wanted)
    told = beside_sleepers(made, awake, applied)
    assert "given away; nothing is free." in told.unplaced[0].reason
    assert told.unplaced[0].remedy
    assert told.unplaced[1] == unplaced[1]
    assert told.asleep == ()


async def test_a_plan_is_outdated_once_a_model_falls_asleep(desk: PlanMaker) -> None:
    here = desk.situation(devices=[cpu()], running=(), asleep={"a": 1})
    preview = await desk.preview(here, None)
    assert desk.recall(preview.plan.id, here, None) == preview
    awake = desk.situation(devices=[cpu()], running=())
    with pytest.raises(ConflictError, match="outdated"):
        desk.recall(preview.plan.id, awake, None)


def test_a_place_that_was_given_away_is_not_that_of_who_comes_back() -> None:
    other = dataclasses.replace(ASLEEP, replica_id="b-1", model="b")
    assert running_placements((other, ASLEEP), [], only_live=False) == (other,)
    engines = [engine_in(ReplicaState.SERVING)]
    assert running_placements((other, ASLEEP), engines, only_live=False) == (ASLEEP,)


def engine_in(state: ReplicaState) -> Engine:
    found = Engine(
        "a-1",
        ASLEEP,
        runner=FakeRunner(),
        clock=FakeClock(),
        policy=POLICY,
        note=lambda *_: None,
        wake=lambda: None,
    )
    found.state = state
    return found


@pytest.mark.parametrize("state", [ReplicaState.SLEEPING, ReplicaState.WAKING])
async def test_what_sleeps_and_is_wanted_awake_counts_as_there_and_may_move(
    state: ReplicaState,
) -> None:
    engines = [engine_in(state)]
    assert running_placements((), engines, only_live=False) == (ASLEEP,)
    assert running_placements((), engines, only_live=True) == ()
    assert running_placements((ASLEEP,), engines, only_live=False, asleep={"a": 1}) == ()


def test_candidates_know_what_they_hold_asleep_only_with_sleep_mode() -> None:
    profile = measured_profile("a", cores=2, engine="simulated")
    plain = spec("a", engine_kind="simulated")
    able = spec("a", engine_kind="simulated", engine=CAN_SLEEP)
    hardware = [profile.hardware]
    assert {c.asleep for c in candidates_for(plain, [profile], hardware).candidates} == {None}
    for candidate in candidates_for(able, [profile], hardware).candidates:
        assert candidate.asleep is not None
        assert candidate.asleep.level_2_bytes <= candidate.asleep.level_1_bytes
        assert candidate.asleep.level_1_bytes < candidate.memory_bytes


def test_vllm_with_sleep_mode_is_not_placed_on_a_cpu_and_says_why() -> None:
    profile = measured_profile("a", cores=2)
    assert (profile.kind, profile.size.mode) == (ProfileKind.MEASURED, SharingMode.CORES)
    asked = candidates_for(spec("a", engine=CAN_SLEEP), [profile], [profile.hardware])
    assert asked.candidates == ()
    assert "sleep mode" in asked.reason
