"""Sleep holds the right memory, lends room, and picks the models to sleep and to wake."""

import dataclasses

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import DeviceKind, SharingMode
from partitiond.core.hardware.partition import MemoryShare, MigSlice, MpsShare, Partition
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, SourceKind
from partitiond.core.performance.footprint import sleeping_footprint
from partitiond.core.plan.record import Placement
from partitiond.core.profile.points import Footprint, SleepingFootprint
from partitiond.core.replica import sleep
from partitiond.core.replica.sleep import (
    STOPPED,
    Sleeper,
    Traffic,
    devices_beside,
    host_memory,
    to_put_to_sleep,
)
from partitiond.core.units import GIB, Bytes
from tests.controller.samples import cpu
from tests.core.simulated_host import placement

AWAKE = Footprint(
    weights_bytes=Bytes(2000), kv_cache_bytes=Bytes(5000), activation_bytes=Bytes(300),
    graph_bytes=Bytes(70), context_bytes=Bytes(600), unexplained_bytes=30, peak_bytes=Bytes(8000),
)  # fmt: skip
ASLEEP = SleepingFootprint(Bytes(1 * GIB), Bytes(1 * GIB), Bytes(3 * GIB))
CPU = dataclasses.replace(cpu(2, 80), host="here")
GPU = dataclasses.replace(
    CPU, id="gpu-0", kind=DeviceKind.GPU, hardware="a100-80gb",
    modes=(SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG),
)  # fmt: skip


def on_gpu(partition: Partition, asleep: SleepingFootprint | None = ASLEEP) -> Placement:
    base = placement("a-1", device_id="gpu-0")
    candidate = dataclasses.replace(base.candidate, asleep=asleep, host_memory_bytes=Bytes(2 * GIB))
    return dataclasses.replace(base, partition=partition, candidate=candidate)


def test_asleep_the_weights_wait_in_host_memory_or_stay_where_they_are() -> None:
    found = sleeping_footprint(AWAKE, DeviceKind.GPU)
    assert found == SleepingFootprint(Bytes(700), Bytes(700), Bytes(2000))
    found = sleeping_footprint(AWAKE, DeviceKind.CPU)
    assert found == SleepingFootprint(Bytes(2700), Bytes(700), Bytes(0))


def test_a_sleeper_computes_nothing_and_counts_whole_unless_it_shrinks() -> None:
    share = MemoryShare("gpu-0", Bytes(9 * GIB))
    assert sleep.asleep_partition(on_gpu(share, None), 1) == share
    part = MpsShare("gpu-0", Bytes(9 * GIB), 40)
    assert sleep.asleep_partition(on_gpu(part), 1) == MpsShare("gpu-0", Bytes(1 * GIB), 0)


def test_what_a_sleeper_holds_is_not_free_for_others() -> None:
    sleeper = sleep.Sleeper(on_gpu(MpsShare("gpu-0", Bytes(9 * GIB), 40)), 1)
    gpu, cpu = devices_beside((GPU, CPU), (sleeper,))
    assert gpu.free_bytes == 79 * GIB
    assert gpu.modes == (SharingMode.MPS,)
    assert cpu.free_bytes == (80 - 2 - 3) * GIB
    assert cpu.modes == CPU.modes
    assert gpu.mps_group == ""
    assert cpu.mps_group is None
    deeper = dataclasses.replace(sleeper, level=2)
    assert devices_beside((GPU, CPU), (deeper,))[1].free_bytes == 78 * GIB


def test_a_sleeper_on_a_mig_slice_keeps_its_memory_slices() -> None:
    sleeper = sleep.Sleeper(on_gpu(MigSlice("gpu-0", Bytes(20 * GIB), "2g.20gb", 2, 2)), 1)
    (gpu,) = devices_beside((GPU,), (sleeper,))
    assert gpu.occupied_slices == (2, 3)
    assert gpu.modes == (SharingMode.MIG,)


def test_a_request_that_waits_wakes_its_model_only_the_longest_wait_first() -> None:
    traffic = {"a": Traffic(2, 0.0), "b": Traffic(0, 9.0), "c": Traffic(4, 0.0)}
    assert sleep.to_wake({"a": 1, "b": 1}, traffic) == ("a",)
    traffic = {name: Traffic(waiting=1, idle_seconds=0.0) for name in "abc"}
    asleep = dict.fromkeys("abc", 3)
    assert sleep.to_wake(asleep, traffic, {"c": 5.0, "b": 7.0}) == ("c", "b", "a")


def test_a_model_falls_asleep_after_its_time_without_requests() -> None:
    traffic = {"a": Traffic(0, 60.0), "b": Traffic(0, 59.9), "c": Traffic(1, 0.0)}
    rule = {"a": 60.0, "b": 60.0, "c": 60.0, "d": 60.0}
    serving = dict.fromkeys("abcd", 1000.0)
    assert to_put_to_sleep(rule, traffic, serving) == ("a",)
    assert to_put_to_sleep(rule, traffic, serving, {"a": 1}) == ()
    traffic = {"a": Traffic(0, 3600.0)}
    assert to_put_to_sleep({"a": 60.0}, traffic, {"a": 1.0}) == ()
    assert to_put_to_sleep({"a": 60.0}, traffic, {}) == ()


def test_host_memory_that_no_cpu_device_says_is_told_by_host_less_what_sleepers_hold() -> None:
    there = dataclasses.replace(GPU, id="gpu-1", host="there")
    sleeper = sleep.Sleeper(on_gpu(MemoryShare("gpu-0", Bytes(8 * GIB))), 1)
    each = {"here": 64 * GIB, "there": 64 * GIB}
    assert host_memory((GPU, there), (sleeper,), {}) == ()
    assert host_memory((GPU, there), (sleeper,), each) == (
        ("here", (64 - 2 - 3) * GIB),
        ("there", 64 * GIB),
    )
    assert host_memory((GPU, there), (sleeper,), {"here": GIB}) == (("here", 0),)
    assert host_memory((GPU, CPU, there), (), each) == (("there", 64 * GIB),)


# Models at zero hold nothing, go there by rule, and requests wait for them


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
