"""The reconciler handles models that are to sleep, and devices that broke."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import MigSlice, MpsShare, WholeDevice
from partitiond.core.plan.record import Placement
from partitiond.core.profile.points import SleepingFootprint
from partitiond.core.replica.reconcile import (
    DrainReplica,
    ForgetReplica,
    QuiesceReplica,
    SleepReplica,
    StartEngine,
    StopEngine,
    StopReason,
    WakeReplica,
    backoff_seconds,
    reconcile,
)
from partitiond.core.replica.states import ReplicaEvent, ReplicaState
from partitiond.core.units import MIB, Bytes
from tests.core.replica.test_reconcile import MEMORY_MIB, plans
from tests.core.simulated_host import POLICY, SimulatedHost, placement

SERVING = ReplicaState.SERVING
SLEEPING = ReplicaState.SLEEPING


def host(memory_mib: int = 1000, **asleep: int) -> SimulatedHost:
    return SimulatedHost({"cpu": memory_mib}, asleep=dict(asleep))


def started(here: SimulatedHost, *wanted: Placement) -> None:
    """Everything serves; nobody sleeps."""
    asleep, here.asleep = here.asleep, {}
    here.settle(wanted)
    here.asleep = asleep


def test_a_model_drains_first_then_its_engine_falls_asleep() -> None:
    here = host(a=1)
    wanted = (placement("a-1", [0]),)
    started(here, *wanted)
    here.engines["g0"] = dataclasses.replace(here.engines["g0"], in_flight=2)
    assert here.run(wanted) == (QuiesceReplica("a-1", "g0"),)
    assert here.run(wanted) == ()
    here.engines["g0"] = dataclasses.replace(here.engines["g0"], in_flight=0)
    assert here.run(wanted) == (SleepReplica("a-1", "g0", 1),)
    assert here.run(wanted) == ()
    here.happen("g0", ReplicaEvent.FELL_ASLEEP)
    assert here.run(wanted) == ()
    assert here.engines["g0"].sleep_level == 1


def test_no_request_is_cut_off_to_sleep_however_long_it_takes() -> None:
    here = host(a=1)
    wanted = (placement("a-1", [0]),)
    started(here, *wanted)
    for in_flight in (3, None):
        here.engines["g0"] = dataclasses.replace(here.engines["g0"], in_flight=in_flight)
        here.run(wanted)
        here.now += 10 * POLICY.drain_deadline_seconds
        assert here.run(wanted) == ()
    assert here.engines["g0"].state is ReplicaState.QUIESCING


def test_a_model_that_is_woken_before_it_slept_serves_again_at_once() -> None:
    here = host(a=1)
    wanted = (placement("a-1", [0]),)
    started(here, *wanted)
    here.run(wanted)
    here.asleep = {}
    assert here.run(wanted) == (WakeReplica("a-1", "g0"),)
    assert here.engines["g0"].state is SERVING


def test_engines_fall_asleep_wake_and_start_one_at_a_time_on_a_device() -> None:
    here = host(a=2)
    first = (placement("a-1", [0]), placement("a-2", [1]))
    started(here, *first)
    wanted = (*first, placement("b-1", [2]))
    assert here.run(wanted)[:2] == (QuiesceReplica("a-1", "g0"), QuiesceReplica("a-2", "g1"))
    here.happen("g2", ReplicaEvent.BECAME_READY)  # b-1 took the turn of this pass
    assert here.run(wanted) == (SleepReplica("a-1", "g0", 2),)
    assert here.run(wanted) == ()
    here.happen("g0", ReplicaEvent.FELL_ASLEEP)
    assert here.run(wanted) == (SleepReplica("a-2", "g1", 2),)
    here.happen("g1", ReplicaEvent.FELL_ASLEEP)
    here.asleep = {}
    assert here.run(wanted) == (WakeReplica("a-1", "g0"),)
    assert here.run(wanted) == ()
    here.happen("g0", ReplicaEvent.BECAME_READY)
    assert here.run(wanted) == (WakeReplica("a-2", "g1"),)


def test_the_room_of_a_sleeper_is_there_for_others_but_for_what_it_holds() -> None:
    here = host(memory_mib=150, a=1)
    first = (placement("a-1", [0]),)
    started(here, *first)
    here.settle(first)
    tight = placement("b-1", [0], memory_mib=131)
    assert here.run((*first, tight)) == ()  # 20 MiB are held asleep
    fitting = placement("b-1", [0], memory_mib=130)
    (action,) = here.run((*first, fitting))
    assert isinstance(action, StartEngine)


def test_a_sleeper_whose_room_was_given_away_waits_until_it_is_free() -> None:
    here = host(memory_mib=150, a=1)
    sleeper, other = placement("a-1", [0]), placement("b-1", [0])
    started(here, sleeper)
    here.settle((sleeper,))
    here.settle((sleeper, other))
    here.asleep = {}
    assert here.run((sleeper, other)) == ()
    assert here.run((sleeper,)) == (DrainReplica("b-1", "g1", POLICY.drain_deadline_seconds),)
    here.settle((sleeper,))
    assert here.engines["g0"].state is SERVING


def test_a_woken_sleeper_makes_others_that_nobody_wants_give_way() -> None:
    here = host(a=1)
    sleeper, other, last = placement("a-1", [0]), placement("b-1", [0]), placement("b-2", [2])
    started(here, sleeper)
    here.settle((sleeper,))
    here.settle((sleeper, other, last))
    here.asleep = {}
    here.not_ready = ("b",)  # so that b-1 cannot come up elsewhere first
    here.run((sleeper, placement("b-1", [1]), last))
    assert here.engines["g1"].state is ReplicaState.DRAINING


def test_a_sleeper_that_moved_in_the_plan_is_stopped_without_a_drain() -> None:
    here = host(a=1)
    first = (placement("a-1", [0]),)
    started(here, *first)
    here.settle(first)
    here.asleep = {}
    actions = here.run((placement("a-1", [1]),))
    assert StopEngine("a-1", "g0", StopReason.NOT_WANTED, POLICY.stop_grace_seconds) in actions
    assert any(isinstance(action, StartEngine) for action in actions)


def test_nothing_of_a_sleeping_model_is_started() -> None:
    here = host(a=1)
    assert here.run((placement("a-1", [0]),)) == ()
    here.asleep = {}
    assert [type(action) for action in here.run((placement("a-1", [0]),))] == [StartEngine]


def test_an_engine_without_sleep_mode_is_drained_and_stopped_instead() -> None:
    here = host(a=1)
    here.can_sleep = False
    wanted = (placement("a-1", [0]),)
    started(here, *wanted)
    assert here.run(wanted) == (DrainReplica("a-1", "g0", POLICY.drain_deadline_seconds),)
    here.settle(wanted)
    assert [engine.state for engine in here.engines.values()] == [ReplicaState.STOPPED]
    assert here.run(wanted) == ()


def test_a_sleeper_that_dies_is_started_when_it_is_woken() -> None:
    here = host(a=1)
    wanted = (placement("a-1", [0]),)
    started(here, *wanted)
    here.settle(wanted)
    here.happen("g0", ReplicaEvent.EXITED)
    assert here.run(wanted) == ()
    here.asleep = {}
    here.now += backoff_seconds(1, POLICY)
    assert [type(action) for action in here.run(wanted)] == [StartEngine]


def test_a_wake_that_takes_too_long_fails() -> None:
    here = host(a=1)
    wanted = (placement("a-1", [0]),)
    started(here, *wanted)
    here.settle(wanted)
    here.asleep = {}
    here.run(wanted)
    here.now += POLICY.start_deadline_seconds + POLICY.stop_grace_seconds
    (action,) = here.run(wanted)
    assert isinstance(action, StopEngine)
    assert action.reason is StopReason.FAILED


def test_an_engine_nobody_wants_any_more_is_ended_while_it_rests_or_sleeps() -> None:
    here = host(a=1)
    here.add(placement("a-1", [0]), ReplicaState.QUIESCING, in_flight=1)
    here.add(placement("a-2", [1]), SLEEPING, sleep_level=1)
    actions = here.run(())
    assert actions == (
        StopEngine("a-2", "g1", StopReason.NOT_WANTED, POLICY.stop_grace_seconds),
        DrainReplica("a-1", "g0", POLICY.drain_deadline_seconds),
    )


def test_a_sleeper_on_a_mig_slice_keeps_the_whole_slice_and_wakes_in_it() -> None:
    here = host(a=1)
    slice_ = MigSlice("cpu", Bytes(100 * MIB), "1g.10gb", 0, 1)
    sleeper = dataclasses.replace(placement("a-1"), partition=slice_)
    other = dataclasses.replace(placement("b-1"), partition=slice_)
    here.add(sleeper, SLEEPING, sleep_level=1)
    assert here.run((sleeper, other)) == ()
    here.asleep = {}
    assert here.run((sleeper,)) == (WakeReplica("a-1", "g0"),)


def test_a_sleeper_keeps_the_sharing_mode_of_its_device() -> None:
    here = host(a=1)
    asleep = SleepingFootprint(Bytes(10 * MIB), Bytes(10 * MIB))
    base = placement("a-1")
    share = MpsShare("cpu", Bytes(100 * MIB), 80)
    sleeper = dataclasses.replace(
        base, partition=share, candidate=dataclasses.replace(base.candidate, asleep=asleep)
    )
    here.add(sleeper, SLEEPING, sleep_level=1)
    whole = dataclasses.replace(placement("b-1"), partition=WholeDevice("cpu", Bytes(100 * MIB)))
    assert here.run((sleeper, whole)) == ()
    beside = dataclasses.replace(placement("b-1"), partition=MpsShare("cpu", Bytes(100 * MIB), 100))
    (action,) = here.run((sleeper, beside))
    assert isinstance(action, StartEngine)
    assert action.placement.partition.mode is SharingMode.MPS


# -- faulted devices ---------------------------------------------------------------------------


def test_every_engine_of_a_faulted_device_is_ended_and_backs_off() -> None:
    here = SimulatedHost({"gpu-0": 1000, "gpu-1": 1000}, asleep={"c": 1})
    wanted = (
        placement("a-1", [0], device_id="gpu-0"),
        placement("b-1", [1], device_id="gpu-0"),
        placement("c-1", [2], device_id="gpu-0"),
        placement("a-2", [0], device_id="gpu-1"),
    )
    started(here, *wanted)
    here.settle(wanted)
    here.faulted = {"gpu-0"}
    actions = here.run(wanted)
    assert {type(action) for action in actions} == {StopEngine}
    assert {a.replica_id for a in actions if isinstance(a, StopEngine)} == {"a-1", "b-1", "c-1"}
    assert here.run(wanted) == ()  # each is told once
    here.calm_step()
    failed = here.in_state(ReplicaState.FAILED)
    assert {e.replica_id for e in failed} == {"a-1", "b-1", "c-1"}
    assert [e.failures for e in failed] == [1, 1, 1]
    assert [e.replica_id for e in here.in_state(SERVING)] == ["a-2"]


def test_nothing_starts_or_wakes_on_a_device_while_it_is_faulted() -> None:
    here = host()
    wanted = (placement("a-1", [0]),)
    here.faulted = {"cpu"}
    here.add(placement("b-1", [1]), ReplicaState.STOPPING)
    assert here.run(wanted) == ()
    here.faulted = set()
    assert [type(action) for action in here.run(wanted)] == [StartEngine]


def test_an_engine_that_was_on_its_way_out_of_a_faulted_device_does_not_come_back() -> None:
    here = host()
    here.add(placement("a-1", [0]), ReplicaState.DRAINING, in_flight=4)
    here.faulted = {"cpu"}
    (action,) = here.run(())
    assert action == StopEngine("a-1", "g0", StopReason.FAILED, POLICY.stop_grace_seconds)
    here.calm_step()
    assert here.run(()) == (ForgetReplica("a-1", "g0"),)


def test_what_is_not_wanted_of_the_plan_and_the_marks_agrees_with_an_empty_host() -> None:
    assert reconcile((), host(a=1).observe(), POLICY, {"a": 1}) == ()


@given(plans(), plans(), st.sampled_from([1, 2]))
def test_whatever_is_put_into_a_sleepers_room_nothing_ever_overlaps_and_it_comes_back(
    first: tuple[Placement, ...], second: tuple[Placement, ...], level: int
) -> None:
    """`SimulatedHost.run` checks each pass: room, memory, one change at a time, no lost request."""
    here = SimulatedHost({"cpu": MEMORY_MIB, "cpu-b": MEMORY_MIB})
    here.settle(first)
    here.asleep = {"a": level}
    here.settle(first)
    sleepers = tuple(p for p in first if p.model == "a")
    others = tuple(p for p in second if p.model != "a")
    for asleep in ({"a": level}, {}):
        here.asleep = asleep
        for _ in range(40):
            here.run((*others, *sleepers))
            here.calm_step()
            here.now += 1.0
    here.settle(first)
    assert {e.replica_id for e in here.in_state(SERVING)} == {p.replica_id for p in first}
    assert reconcile(first, here.observe(), POLICY) == ()
