"""Models at zero hold nothing, go there by rule, and requests wait for them."""

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, SourceKind
from partitiond.core.replica import sleep
from partitiond.core.replica.sleep import STOPPED, Sleeper, Traffic
from tests.controller.samples import cpu
from tests.core.simulated_host import placement

ZERO = Autoscale(scale_to_zero_seconds=60.0)


def spec_of(**more: object) -> ModelSpec:
    values: dict[str, object] = {"name": "a", "source": ModelSource(SourceKind.CONFIG, "opt-125m")}
    return ModelSpec(**{**values, **more})  # type: ignore[arg-type]


def test_a_model_at_zero_holds_nothing() -> None:
    placed = placement("a-1")
    assert sleep.asleep_partition(placed, STOPPED).memory_bytes == 0
    assert sleep.host_bytes(placed, STOPPED) == 0
    assert [sleep.level_of(text) for text in ("1", "2", "3", "7", "")] == [1, 2, STOPPED, 1, 1]
    assert "next request" in sleep.said_asleep(STOPPED)
    assert not sleep.stays(STOPPED, can_sleep=True)
    assert sleep.stays(1, can_sleep=True)
    assert not sleep.stays(1, can_sleep=False)
    assert sleep.stays(0, can_sleep=False)


def test_what_scales_to_zero_sleeps_where_its_engine_can() -> None:
    can = EngineOptions(sleep_mode=True)
    assert sleep.idle_rules(spec_of()) == ()
    assert sleep.idle_rules(spec_of(autoscale=Autoscale())) == ()
    assert sleep.idle_rules(spec_of(autoscale=ZERO)) == ((STOPPED, 60.0),)
    assert sleep.idle_rules(spec_of(autoscale=ZERO, engine=can)) == ((1, 60.0),)
    both = spec_of(autoscale=ZERO, engine=can, sleep_after_seconds=10.0)
    assert sleep.idle_rules(both) == ((1, 10.0), (STOPPED, 60.0))


def test_a_sleeper_gives_up_its_process_when_nobody_asks_for_long_enough() -> None:
    traffic = {"a": Traffic(0, 61.0), "b": Traffic(0, 59.0), "c": Traffic(1, 99.0)}
    rules = dict.fromkeys("abcd", 60.0)
    assert sleep.to_stop(rules, traffic, {"a": 1, "b": 1, "c": 1, "d": 1}) == ("a",)
    assert sleep.to_stop(rules, traffic, {"a": STOPPED}) == ()
    assert sleep.to_stop(rules, traffic, {}) == ()


def test_requests_wait_for_what_is_at_zero_and_for_what_comes_back_from_there() -> None:
    specs = [spec_of(name=name, autoscale=ZERO) for name in ("zero", "comes", "serves", "sleeps")]
    specs += [spec_of(name="plain"), spec_of(name="kept", autoscale=Autoscale())]
    asleep = {"zero": STOPPED, "sleeps": 1}
    assert sleep.waited_for(specs, asleep, {"serves"}) == {"zero", "comes"}


def test_replicas_and_zero_must_not_contradict_each_other() -> None:
    with pytest.raises(SpecError, match="scale to zero"):
        spec_of(min_replicas=1, autoscale=ZERO)
    assert spec_of(min_replicas=1, autoscale=Autoscale()).min_replicas == 1
    with pytest.raises(SpecError):
        Autoscale(scale_to_zero_seconds=0.0)


def test_the_room_of_a_model_at_zero_is_free_for_others() -> None:
    device = cpu()
    gone = [Sleeper(placement("a-1"), STOPPED)]
    assert sleep.devices_beside([device], gone) == (device,)
    assert sleep.host_memory([device], gone, {}) == ()
    assert sleep.devices_beside([device], [Sleeper(placement("a-1"), 1)]) != (device,)
