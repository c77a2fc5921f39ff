"""Models at zero hold nothing, go there by rule, and requests wait for them."""

import dataclasses

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, SourceKind
from partitiond.core.replica.reconcile import (
    LIVE,
    DrainReplica,
    StartEngine,
    StopEngine,
    StopReason,
)
from partitiond.core.replica.sleep import (
    STOPPED,
    Sleeper,
    Traffic,
    devices_beside,
    held,
    host_bytes,
    host_memory,
    idle_rules,
    level_of,
    said_asleep,
    stays,
    to_stop,
    waited_for,
)
from partitiond.core.replica.states import ReplicaEvent, ReplicaState
from tests.controller.samples import cpu
from tests.core.simulated_host import SimulatedHost, placement

ZERO = Autoscale(scale_to_zero_seconds=60.0)


def spec_of(**more: object) -> ModelSpec:
    values: dict[str, object] = {"name": "a", "source": ModelSource(SourceKind.CONFIG, "opt-125m")}
    return ModelSpec(**{**values, **more})  # type: ignore[arg-type]


def test_a_model_at_zero_holds_nothing() -> None:
    placed = placement("a-1")
    assert held(placed, STOPPED).memory_bytes == 0
    assert host_bytes(placed, STOPPED) == 0
    assert level_of("3") == STOPPED
    assert not stays(STOPPED, can_sleep=True)
    assert stays(1, can_sleep=True)
    assert not stays(1, can_sleep=False)
    assert stays(0, can_sleep=False)


def test_what_scales_to_zero_sleeps_where_its_engine_can() -> None:
    can = EngineOptions(sleep_mode=True)
    assert idle_rules(spec_of()) == ()
    assert idle_rules(spec_of(autoscale=Autoscale())) == ()
    assert idle_rules(spec_of(autoscale=ZERO)) == ((STOPPED, 60.0),)
    assert idle_rules(spec_of(autoscale=ZERO, engine=can)) == ((1, 60.0),)
    both = spec_of(autoscale=ZERO, engine=can, sleep_after_seconds=10.0)
    assert idle_rules(both) == ((1, 10.0), (STOPPED, 60.0))


def test_a_sleeper_gives_up_its_process_when_nobody_asks_for_long_enough() -> None:
    traffic = {"a": Traffic(0, 61.0), "b": Traffic(0, 59.0), "c": Traffic(1, 99.0)}
    rules = dict.fromkeys("abcd", 60.0)
    assert to_stop(rules, traffic, {"a": 1, "b": 1, "c": 1, "d": 1}) == ("a",)
    assert to_stop(rules, traffic, {"a": STOPPED}) == ()
    assert to_stop(rules, traffic, {}) == ()


def test_requests_wait_for_what_is_at_zero_and_for_what_comes_back_from_there() -> None:
    specs = [spec_of(name=name, autoscale=ZERO) for name in ("zero", "comes", "serves", "sleeps")]
    specs += [spec_of(name="plain"), spec_of(name="kept", autoscale=Autoscale())]
    asleep = {"zero": STOPPED, "sleeps": 1}
    assert waited_for(specs, asleep, {"serves"}) == {"zero", "comes"}


def test_replicas_and_zero_must_not_contradict_each_other() -> None:
    with pytest.raises(SpecError, match="scale to zero"):
        spec_of(min_replicas=1, autoscale=ZERO)
    assert spec_of(min_replicas=1, autoscale=Autoscale()).min_replicas == 1
    with pytest.raises(SpecError):
        Autoscale(scale_to_zero_seconds=0.0)


def test_the_room_of_a_model_at_zero_is_free_for_others() -> None:
    device = cpu()
    gone = [Sleeper(placement("a-1"), STOPPED)]
    assert devices_beside([device], gone) == (device,)
    assert host_memory([device], gone, {}) == ()
    assert devices_beside([device], [Sleeper(placement("a-1"), 1)]) != (device,)


def test_people_read_what_zero_means() -> None:
    assert said_asleep(0) == ""
    assert "level 2" in said_asleep(2)
    assert "next request" in said_asleep(STOPPED)


def test_at_zero_an_engine_drains_ends_and_starts_anew_when_woken() -> None:
    here = SimulatedHost({"cpu": 1000}, asleep={"a": STOPPED})
    wanted = (placement("a-1", [0]),)
    asleep, here.asleep = here.asleep, {}
    here.settle(wanted)
    here.asleep = asleep
    here.engines["g0"] = dataclasses.replace(here.engines["g0"], in_flight=2)
    assert [type(action) for action in here.run(wanted)] == [DrainReplica]
    assert here.run(wanted) == ()
    here.engines["g0"] = dataclasses.replace(here.engines["g0"], in_flight=0)
    (stop,) = here.run(wanted)
    assert isinstance(stop, StopEngine)
    assert stop.reason is StopReason.DRAINED
    here.happen("g0", ReplicaEvent.EXITED)
    here.run(wanted)
    assert here.run(wanted) == ()
    here.asleep = {}
    assert [type(action) for action in here.run(wanted)] == [StartEngine]


def test_a_sleeper_that_goes_to_zero_is_ended() -> None:
    here = SimulatedHost({"cpu": 1000}, asleep={"a": 1})
    wanted = (placement("a-1", [0]),)
    here.add(wanted[0], ReplicaState.SLEEPING, sleep_level=1)
    assert here.run(wanted) == ()
    here.asleep = {"a": STOPPED}
    (stop,) = here.run(wanted)
    assert isinstance(stop, StopEngine)
    assert stop.reason is StopReason.NOT_WANTED


def test_who_is_woken_starts_only_once_the_one_that_makes_room_is_gone() -> None:
    here = SimulatedHost({"cpu": 150}, asleep={"b": STOPPED})
    wanted = (placement("a-1", [0]), placement("b-1", [0]))
    asleep, here.asleep = here.asleep, {"a": STOPPED}
    here.settle((wanted[1],))
    here.asleep = asleep
    here.engines["g0"] = dataclasses.replace(here.engines["g0"], in_flight=1)
    here.run(wanted)
    assert [e.replica_id for e in here.engines.values()] == ["b-1"]
    here.engines["g0"] = dataclasses.replace(here.engines["g0"], in_flight=0)
    here.run(wanted)
    here.happen("g0", ReplicaEvent.EXITED)
    here.run(wanted)
    assert {e.replica_id for e in here.engines.values() if e.state in LIVE} == {"a-1"}
