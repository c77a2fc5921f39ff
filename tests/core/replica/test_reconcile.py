"""The reconciler keeps its promises in single cases, and in random histories of a host."""

import dataclasses
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from partitiond.core.hardware.partition import CpuCores, MemoryShare, MpsShare
from partitiond.core.plan.record import Placement, same_engine
from partitiond.core.plan.start_order import StartGains
from partitiond.core.replica.observation import HOPELESS_FAILURES
from partitiond.core.replica.reconcile import (
    LIVE,
    Action,
    DrainReplica,
    ForgetReplica,
    ObservedReplica,
    ReconcilePolicy,
    StartEngine,
    StopEngine,
    StopReason,
    backoff_seconds,
    failures_after,
    reconcile,
)
from partitiond.core.replica.states import ReplicaEvent, ReplicaState
from partitiond.core.units import MIB, Bytes
from tests.core.simulated_host import POLICY, SimulatedHost, placement

SERVING = ReplicaState.SERVING
STARTING = ReplicaState.STARTING
DRAINING = ReplicaState.DRAINING
FAILED = ReplicaState.FAILED


def host(memory_mib: int = 1000) -> SimulatedHost:
    return SimulatedHost({"cpu": memory_mib})


def test_an_empty_plan_on_an_empty_host_asks_for_nothing() -> None:
    assert reconcile((), host().observe(), POLICY) == ()


def test_engines_of_one_device_start_one_after_the_other() -> None:
    here = host()
    wanted = (placement("a-1", [0]), placement("a-2", [1]))
    assert here.run(wanted) == (StartEngine(wanted[0], POLICY.start_deadline_seconds),)
    assert here.run(wanted) == ()
    here.happen("g0", ReplicaEvent.BECAME_READY)
    assert here.run(wanted) == (StartEngine(wanted[1], POLICY.start_deadline_seconds),)


def test_an_engine_that_a_profile_job_starts_counts_among_those_that_start() -> None:
    here = SimulatedHost({"d0": 1000, "d1": 1000})
    wanted = (placement("a-1", [1], device_id="d0"), placement("b-1", [1], device_id="d1"))
    here.measuring = ("d0",)
    begun = [action for action in here.run(wanted) if isinstance(action, StartEngine)]
    assert [action.placement.replica_id for action in begun] == ["b-1"]
    here.measuring = ()
    begun = [action for action in here.run(wanted) if isinstance(action, StartEngine)]
    assert [action.placement.replica_id for action in begun] == ["a-1"]


@pytest.mark.parametrize(("measuring", "begun"), [((), 2), (("d0",), 1), (("d0", "d0"), 0)])
def test_each_engine_that_a_profile_job_starts_takes_one_of_several_places(
    measuring: tuple[str, ...], begun: int
) -> None:
    here = SimulatedHost({"d0": 1000})
    here.measuring = measuring
    wanted = tuple(placement(f"{m}-1", [n], device_id="d0") for n, m in enumerate("abc"))
    two = dataclasses.replace(POLICY, max_starting=2)
    actions = reconcile(wanted, here.observe(), two)
    assert [type(action) for action in actions] == [StartEngine] * begun


def test_devices_start_side_by_side() -> None:
    here = SimulatedHost({"gpu-0": 1000, "gpu-1": 1000})
    wanted = (placement("a-1", device_id="gpu-0"), placement("a-2", device_id="gpu-1"))
    assert [type(action) for action in here.run(wanted)] == [StartEngine, StartEngine]


def test_a_model_without_any_replica_starts_before_a_second_replica() -> None:
    here = host()
    here.add(placement("a-1", [0]), SERVING)
    wanted = (placement("a-1", [0]), placement("a-2", [1]), placement("b-1", [2]))
    (action,) = here.run(wanted)
    assert isinstance(action, StartEngine)
    assert action.placement.replica_id == "b-1"


def test_what_failed_to_start_starts_after_what_did_not() -> None:
    here = host()
    wanted = (placement("a-1", [0]), placement("b-1", [1]), placement("c-1", [2]))
    here.add(wanted[0], FAILED, failures=1, failed_starts=1)
    here.add(wanted[1], FAILED, failures=2)  # it served before
    here.now = POLICY.backoff_max_seconds
    begun = []
    for generation in ("g2", "g3", "g4"):
        begun += [a.placement.replica_id for a in here.run(wanted) if isinstance(a, StartEngine)]
        here.happen(generation, ReplicaEvent.BECAME_READY)
    assert begun == ["b-1", "c-1", "a-1"]


def test_an_engine_that_outgrew_its_share_is_drained_and_started_again_once_it_is_gone() -> None:
    here = host()
    wanted = (placement("a-1", [0]), placement("b-1", [1]))
    for one in wanted:
        here.add(one, SERVING, in_flight=1)
    here.outgrown = {"g0"}
    assert here.run(wanted) == (DrainReplica("a-1", "g0", POLICY.drain_deadline_seconds),)
    assert here.run(wanted) == (), "it waits for what runs, and nothing starts in its place"
    here.engines["g0"] = dataclasses.replace(here.engines["g0"], in_flight=0)
    (stop,) = here.run(wanted)
    assert isinstance(stop, StopEngine)
    assert stop.reason is StopReason.DRAINED
    assert here.run(wanted) == ()
    here.happen("g0", ReplicaEvent.EXITED)
    here.run(wanted)
    assert [e.replica_id for e in here.in_state(STARTING)] == ["a-1"]
    here.happen("g2", ReplicaEvent.BECAME_READY)
    assert here.run(wanted) == ()
    assert {e.generation for e in here.in_state(SERVING)} == {"g1", "g2"}


def test_nothing_starts_beside_the_outgrown_engine_that_it_replaces() -> None:
    """However much room there is by what engines were promised."""
    here = SimulatedHost({"gpu-0": 1000})
    share = MemoryShare("gpu-0", Bytes(100 * MIB))
    wanted = (dataclasses.replace(placement("a-1", device_id="gpu-0"), partition=share),)
    here.add(wanted[0], SERVING, in_flight=1)
    here.outgrown = {"g0"}
    for _ in range(3):
        here.run(wanted)
        assert [e.state for e in here.engines.values()] == [DRAINING]
    here.engines["g0"] = dataclasses.replace(here.engines["g0"], in_flight=0)
    here.settle(wanted)
    assert [e.generation for e in here.in_state(SERVING)] == ["g1"]


def test_of_one_model_one_outgrown_engine_leaves_at_a_time() -> None:
    here = host()
    wanted = (placement("a-1", [0]), placement("a-2", [1]), placement("b-1", [2]))
    for one in wanted:
        here.add(one, SERVING)
    here.outgrown = {"g0", "g1", "g2"}
    left = []
    for _ in range(12):
        left += [a.replica_id for a in here.run(wanted) if isinstance(a, DrainReplica)]
        assert len([e for e in here.in_state(SERVING) if e.placement.model == "a"]) >= 1
        here.calm_step()
    assert left == ["a-1", "b-1", "a-2"]
    assert here.run(wanted) == ()


def test_an_outgrown_engine_of_a_model_that_is_to_sleep_gives_its_memory_back_by_that() -> None:
    here = host()
    here.add(placement("a-1", [0]), SERVING)
    here.outgrown, here.asleep = {"g0"}, {"a": 1}
    here.run((placement("a-1", [0]),))
    assert here.in_state(DRAINING) == []


def yields(here: SimulatedHost, *wanted: Placement) -> list[str]:
    stops = [a for a in here.run(wanted) if isinstance(a, StopEngine)]
    assert all(stop.reason is StopReason.YIELDS for stop in stops)
    return [stop.replica_id for stop in stops]


def test_a_start_that_failed_too_often_yields_its_turn_and_starts_again_later() -> None:
    here = host()
    bad, good = placement("a-1", [0]), placement("b-1", [1])
    here.add(bad, STARTING, failures=3, failed_starts=HOPELESS_FAILURES)
    assert yields(here, bad) == [], "nobody waits"
    assert yields(here, bad, good) == ["a-1"]
    assert here.run((bad, good)) == (StartEngine(good, POLICY.start_deadline_seconds),)
    here.happen("g0", ReplicaEvent.EXITED)
    assert here.run((bad, good)) == ()
    here.happen("g1", ReplicaEvent.BECAME_READY)
    assert here.run((bad, good)) == (StartEngine(bad, POLICY.start_deadline_seconds),)
    (again,) = here.in_state(STARTING)
    assert again.failed_starts == HOPELESS_FAILURES


def test_a_start_yields_only_to_what_could_start_in_its_turn() -> None:
    bad, good = placement("a-1", [0]), placement("b-1", [1])
    seldom, hopeless, large = host(), host(), host(memory_mib=150)
    seldom.add(bad, STARTING, failures=2, failed_starts=HOPELESS_FAILURES - 1)
    assert yields(seldom, bad, good) == []
    for here in (hopeless, large):
        here.add(bad, STARTING, failures=3, failed_starts=HOPELESS_FAILURES)
    hopeless.add(good, FAILED, failures=3, failed_starts=HOPELESS_FAILURES)
    hopeless.now = POLICY.backoff_max_seconds
    assert yields(hopeless, bad, good) == []
    assert yields(large, bad, good) == [], "there is no room beside it"
    elsewhere = SimulatedHost({"gpu-0": 1000, "gpu-1": 1000})
    elsewhere.add(placement("a-1", device_id="gpu-0"), STARTING, failed_starts=HOPELESS_FAILURES)
    assert yields(elsewhere, elsewhere.in_state(STARTING)[0].placement,
                  placement("b-1", device_id="gpu-1")) == []  # fmt: skip


def test_nothing_starts_or_makes_way_for_what_is_withheld() -> None:
    here = host(memory_mib=250)
    here.withheld = ("b-1",)
    here.add(placement("a-1", [0]), SERVING)
    here.add(placement("a-2", [1]), SERVING)
    wanted = (placement("a-1", [0]), placement("b-1", [1]))
    assert here.run(wanted) == (DrainReplica("a-2", "g1", POLICY.drain_deadline_seconds),)
    here.run(wanted)
    here.happen("g1", ReplicaEvent.EXITED)
    here.run(wanted)
    assert here.run(wanted) == ()
    here.withheld = ()
    assert here.run(wanted) == (StartEngine(wanted[1], POLICY.start_deadline_seconds),)


def test_a_replica_that_moves_to_free_room_serves_there_before_the_old_one_drains() -> None:
    here = host()
    old, new = placement("a-1", [0]), placement("a-1", [1])
    here.add(old, SERVING)
    assert here.run((new,)) == (StartEngine(new, POLICY.start_deadline_seconds),)
    assert here.run((new,)) == ()
    here.happen("g1", ReplicaEvent.BECAME_READY)
    assert here.run((new,)) == (DrainReplica("a-1", "g0", POLICY.drain_deadline_seconds),)
    assert here.run((new,)) == (
        StopEngine("a-1", "g0", StopReason.DRAINED, POLICY.stop_grace_seconds),
    )
    here.happen("g0", ReplicaEvent.EXITED)
    assert here.run((new,)) == (ForgetReplica("a-1", "g0"),)
    assert here.run((new,)) == ()


def test_a_replica_that_cannot_run_beside_its_successor_makes_way() -> None:
    here = host()
    old, new = placement("a-1", [0]), placement("a-1", [0, 1])
    here.add(old, SERVING)
    assert here.run((new,)) == (DrainReplica("a-1", "g0", POLICY.drain_deadline_seconds),)
    assert here.run((new,)) == (
        StopEngine("a-1", "g0", StopReason.DRAINED, POLICY.stop_grace_seconds),
    )
    assert here.run((new,)) == ()  # its process is not gone yet
    here.happen("g0", ReplicaEvent.EXITED)
    forget, start = here.run((new,))
    assert forget == ForgetReplica("a-1", "g0")
    assert isinstance(start, StartEngine)


def test_a_gpu_passes_to_another_isolation_group_once_the_last_engine_of_the_first_ended() -> None:
    def under_mps(replica_id: str, group: str) -> Placement:
        share = MpsShare("gpu-0", Bytes(50 * MIB), 10, isolation_group=group)
        base = placement(replica_id, device_id="gpu-0", memory_mib=50)
        return dataclasses.replace(base, partition=share)

    here = SimulatedHost({"gpu-0": 1000})
    here.settle(tuple(under_mps(f"a-{n}", "a") for n in (1, 2)))
    assert len(here.in_state(SERVING)) == 2
    new = (under_mps("b-1", "b"), under_mps("b-2", "b"))
    for _ in range(20):
        for action in reconcile(new, here.observe(), POLICY):
            if isinstance(action, StartEngine):
                there = {engine.placement.model for engine in here.in_state(*LIVE)}
                assert "a" not in there, "the MPS daemon still serves the first group"
            here.apply(action)
        here.calm_step()
    assert [engine.placement.model for engine in here.in_state(SERVING)] == ["b", "b"]


def test_memory_alone_can_make_an_engine_make_way() -> None:
    here = host(memory_mib=150)
    here.add(placement("a-1", [0]), SERVING)
    wanted = (placement("b-1", [1]),)
    actions = here.run(wanted)
    assert actions == (DrainReplica("a-1", "g0", POLICY.drain_deadline_seconds),)


def test_only_one_engine_makes_way_at_a_time() -> None:
    here = host()
    here.add(placement("a-1", [0]), SERVING)
    here.add(placement("a-2", [1]), SERVING)
    wanted = (placement("a-1", [0], batch=16), placement("a-2", [1], batch=16))
    assert here.run(wanted) == (DrainReplica("a-1", "g0", POLICY.drain_deadline_seconds),)
    assert here.run(wanted) == (
        StopEngine("a-1", "g0", StopReason.DRAINED, POLICY.stop_grace_seconds),
    )
    here.happen("g0", ReplicaEvent.EXITED)
    here.run(wanted)
    assert [e.generation for e in here.in_state(SERVING)] == ["g1"]
    here.happen("g2", ReplicaEvent.BECAME_READY)
    assert here.run(wanted) == (DrainReplica("a-2", "g1", POLICY.drain_deadline_seconds),)


def test_the_last_engine_of_a_model_stays_while_another_one_of_it_is_coming() -> None:
    here = SimulatedHost({"gpu-0": 1000, "gpu-1": 1000})
    here.add(placement("a-1", [0], device_id="gpu-0"), SERVING)
    wanted = (
        placement("a-1", [0], device_id="gpu-0", batch=16),
        placement("a-2", [0], device_id="gpu-1"),
    )
    (start,) = here.run(wanted)
    assert isinstance(start, StartEngine)
    assert start.placement.replica_id == "a-2"
    assert here.run(wanted) == ()
    here.happen("g1", ReplicaEvent.BECAME_READY)
    assert here.run(wanted) == (DrainReplica("a-1", "g0", POLICY.drain_deadline_seconds),)


def test_the_last_engine_of_a_model_stays_while_a_start_ahead_of_its_own_goes_on() -> None:
    here = SimulatedHost({"gpu-0": 1000, "gpu-1": 1000})
    here.add(placement("a-1", [0], device_id="gpu-0"), SERVING)
    wanted = (
        placement("b-1", [0], device_id="gpu-0"),
        placement("c-1", [0], device_id="gpu-1"),
        placement("a-1", [1], device_id="gpu-1"),
    )
    for generation, replica_id in (("g1", "c-1"), ("g2", "a-1")):
        (start,) = here.run(wanted)
        assert isinstance(start, StartEngine)
        assert start.placement.replica_id == replica_id
        assert here.run(wanted) == ()
        here.happen(generation, ReplicaEvent.BECAME_READY)
    assert here.run(wanted) == (DrainReplica("a-1", "g0", POLICY.drain_deadline_seconds),)


@pytest.mark.parametrize(
    "why", ["failed once", "withheld", "no files", "not there", "device broken", "chain"]
)
def test_the_last_engine_of_a_model_stays_while_its_successor_cannot_start(why: str) -> None:
    """Though another model waits for its room: the plan counted on a successor that comes."""
    here = SimulatedHost({"gpu-0": 1000, "gpu-1": 1000, "gpu-2": 1000})
    here.add(placement("a-1", [0], device_id="gpu-0"), SERVING)
    wanted = [placement("a-1", [0], device_id="gpu-1"), placement("b-1", [0], device_id="gpu-0")]
    if why == "failed once":
        (start,) = here.run(tuple(wanted))
        assert isinstance(start, StartEngine)
        here.happen("g1", ReplicaEvent.EXITED)
    elif why == "no files":
        here.not_ready = ("a",)
    elif why == "not there":
        here.without_files = ("a-1",)
    elif why == "device broken":
        here.faulted = {"gpu-1"}
    else:
        here.withheld = ("a-1",)
    if why == "chain":  # what would take b-1's old place waits as well
        here.add(placement("b-1", [0], device_id="gpu-2"), SERVING)
        wanted.append(placement("c-1", [0], device_id="gpu-2"))
    drained = [a for a in here.run(tuple(wanted)) if isinstance(a, DrainReplica)]
    assert drained == []


def test_what_makes_way_for_one_start_does_not_draw_a_second_one_after_it() -> None:
    here = host(memory_mib=400)
    here.add(placement("a-1", [1], memory_mib=200, batch=16), SERVING)
    here.add(placement("b-1", [0, 2, 3], memory_mib=200, batch=16), SERVING)
    wanted = (
        placement("a-1", [0], memory_mib=200, batch=16),
        placement("b-1", [1, 2, 3], memory_mib=200, batch=16),
    )
    assert here.run(wanted) == (DrainReplica("b-1", "g1", POLICY.drain_deadline_seconds),)
    here.run(wanted)
    assert [e.replica_id for e in here.in_state(SERVING)] == ["a-1"]


def test_the_engine_that_brings_most_back_by_the_second_starts_first() -> None:
    here = host()
    wanted = (placement("a-1", [0]), placement("b-1", [1]))
    stakes = StartGains(seconds={"a-1": 60.0, "b-1": 20.0})
    assert reconcile(wanted, here.observe(), POLICY, {}, stakes) == (
        StartEngine(wanted[1], POLICY.start_deadline_seconds),
    )


def test_a_model_that_is_not_wanted_any_more_drains_and_stops() -> None:
    here = host()
    here.add(placement("a-1", [0]), SERVING, in_flight=3)
    assert here.run(()) == (DrainReplica("a-1", "g0", POLICY.drain_deadline_seconds),)
    assert here.run(()) == ()


def test_a_drain_ends_at_its_deadline_even_with_requests_in_flight() -> None:
    here = host()
    here.add(placement("a-1", [0]), DRAINING, in_flight=3)
    here.now += POLICY.drain_deadline_seconds
    (action,) = here.run(())
    assert isinstance(action, StopEngine)
    assert action.reason is StopReason.DRAIN_DEADLINE


def test_a_drain_with_unknown_requests_in_flight_waits_for_its_deadline() -> None:
    here = host()
    here.add(placement("a-1", [0]), DRAINING, in_flight=None)
    assert here.run(()) == ()
    here.now += POLICY.drain_deadline_seconds
    (action,) = here.run(())
    assert isinstance(action, StopEngine)


def test_nothing_starts_and_nothing_makes_way_on_a_device_nobody_could_observe() -> None:
    here = host()
    here.unknown.add("cpu")
    here.add(placement("a-1", [0]), SERVING)
    assert here.run((placement("a-1", [0, 1]), placement("b-1", [2]))) == ()


def test_a_device_that_is_gone_starts_nothing() -> None:
    assert host().run((placement("a-1", device_id="gpu-7"),)) == ()


def test_an_engine_that_is_starting_and_not_wanted_is_stopped_at_once() -> None:
    here = host()
    here.add(placement("a-1", [0]), STARTING)
    assert here.run(()) == (
        StopEngine("a-1", "g0", StopReason.NOT_WANTED, POLICY.stop_grace_seconds),
    )


def test_a_start_that_takes_too_long_fails_and_backs_off() -> None:
    here = host()
    wanted = (placement("a-1", [0]),)
    here.run(wanted)
    here.now += POLICY.start_deadline_seconds + POLICY.stop_grace_seconds
    (action,) = here.run(wanted)
    assert isinstance(action, StopEngine)
    assert action.reason is StopReason.START_DEADLINE
    assert here.run(wanted) == ()
    here.now += backoff_seconds(1, POLICY)
    assert [type(action) for action in here.run(wanted)] == [StartEngine]


def test_failures_double_the_wait_up_to_a_cap() -> None:
    policy = ReconcilePolicy(backoff_base_seconds=1.0, backoff_max_seconds=60.0)
    waits = [backoff_seconds(failures, policy) for failures in range(9)]
    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert backoff_seconds(10**6, policy) == 60.0


def test_an_engine_that_served_long_starts_counting_failures_anew() -> None:
    assert failures_after(5, POLICY.backoff_max_seconds, POLICY) == 1
    assert failures_after(5, 0.0, POLICY) == 6


def test_a_failed_replica_waits_out_its_back_off() -> None:
    here = host()
    wanted = (placement("a-1", [0]),)
    here.add(wanted[0], FAILED, failures=3)
    here.now += backoff_seconds(3, POLICY) - 0.1
    assert here.run(wanted) == ()
    here.now += 0.1
    assert [type(action) for action in here.run(wanted)] == [StartEngine]
    (engine,) = here.in_state(STARTING)
    assert engine.failures == 3


def test_a_failed_replica_with_a_new_place_starts_at_once() -> None:
    here = host()
    here.add(placement("a-1", [0]), FAILED, failures=9)
    actions = here.run((placement("a-1", [1]),))
    assert [type(action) for action in actions] == [ForgetReplica, StartEngine]


def test_a_failed_replica_that_is_not_wanted_is_forgotten() -> None:
    here = host()
    here.add(placement("a-1", [0]), FAILED)
    assert here.run(()) == (ForgetReplica("a-1", "g0"),)
    assert here.run(()) == ()


def test_nothing_starts_on_what_a_profile_job_holds() -> None:
    here = host()
    here.leases = (CpuCores("cpu", Bytes(100 * MIB), (0,)),)
    (action,) = here.run((placement("a-1", [0]), placement("a-2", [1])))
    assert isinstance(action, StartEngine)
    assert action.placement.replica_id == "a-2"


def test_nothing_drains_for_a_start_that_a_lease_blocks_anyway() -> None:
    here = host()
    here.add(placement("a-1", [0]), SERVING)
    here.leases = (CpuCores("cpu", Bytes(100 * MIB), (1,)),)
    assert here.run((placement("a-1", [0, 1]),)) == ()


def test_only_the_replica_whose_host_lacks_the_files_waits_for_them() -> None:
    here = host()
    here.without_files = ("a-1",)
    (action,) = here.run((placement("a-1", [0]), placement("a-2", [1])))
    assert isinstance(action, StartEngine)
    assert action.placement.replica_id == "a-2"


def test_an_engine_whose_files_are_not_there_yet_is_not_started() -> None:
    here = host()
    here.not_ready = ("a",)
    assert here.run((placement("a-1", [0]),)) == ()


def test_figures_alone_move_nothing() -> None:
    here = host()
    old = placement("a-1", [0])
    here.add(old, SERVING)
    better = dataclasses.replace(
        old, candidate=dataclasses.replace(old.candidate, capacity_req_per_s=9.0)
    )
    assert here.run((better,)) == ()


def test_of_two_engines_of_one_replica_the_serving_one_stays() -> None:
    here = SimulatedHost({"cpu": 1000})
    wanted = placement("a-1", [0])
    here.add(wanted, STARTING)
    here.add(wanted, SERVING)
    actions = reconcile((wanted,), here.observe(), POLICY)
    assert actions == (StopEngine("a-1", "g0", StopReason.NOT_WANTED, POLICY.stop_grace_seconds),)


CORES = 4
MEMORY_MIB = 400


@st.composite
def plans(draw: st.DrawFn) -> tuple[Placement, ...]:
    """Plans that fit: disjoint cores and memory within two devices."""
    placed: list[Placement] = []
    numbers: dict[str, itertools.count[int]] = {}
    for device_id in ("cpu", "cpu-b"):
        free = list(draw(st.permutations(range(CORES))))
        memory = MEMORY_MIB
        while free:
            if not draw(st.booleans()):
                break
            size = draw(st.integers(1, len(free)))
            mib = draw(st.sampled_from([50, 100, 200]))
            if mib > memory:
                break
            memory -= mib
            cores, free = free[:size], free[size:]
            model = draw(st.sampled_from(["a", "b", "c"]))
            number = next(numbers.setdefault(model, itertools.count(1)))
            placed.append(
                placement(
                    f"{model}-{number}",
                    cores,
                    device_id=device_id,
                    memory_mib=mib,
                    batch=draw(st.sampled_from([8, 16])),
                )
            )
    return tuple(draw(st.permutations(placed)))


@given(plans(), plans())
def test_any_plan_comes_to_run_from_any_other_and_then_there_is_rest(
    first: tuple[Placement, ...], second: tuple[Placement, ...]
) -> None:
    here = SimulatedHost({"cpu": MEMORY_MIB, "cpu-b": MEMORY_MIB})
    for desired in (first, second):
        here.settle(desired)
        assert_runs_exactly(here, desired)
        assert reconcile(desired, here.observe(), POLICY) == ()


@given(plans(), plans())
def test_a_model_whose_move_finds_free_room_never_stops_serving(
    first: tuple[Placement, ...], second: tuple[Placement, ...]
) -> None:
    """With twice the cores and memory there is always room beside."""
    shifted = tuple(
        dataclasses.replace(
            p,
            partition=CpuCores(
                p.device_id,
                p.partition.memory_bytes,
                tuple(core + CORES for core in p.partition.cores),
            ),
        )
        for p in second
        if isinstance(p.partition, CpuCores)
    )
    here = SimulatedHost({"cpu": 2 * MEMORY_MIB, "cpu-b": 2 * MEMORY_MIB})
    here.settle(first)
    both = {p.model for p in first} & {p.model for p in shifted}
    for _ in range(100):
        here.run(shifted)
        assert both <= {e.placement.model for e in here.in_state(SERVING)}
        here.calm_step()
        here.now += 1.0
    assert_runs_exactly(here, shifted)


def assert_runs_exactly(here: SimulatedHost, desired: tuple[Placement, ...]) -> None:
    assert {e.replica_id for e in here.engines.values()} <= {p.replica_id for p in desired}
    for wanted in desired:
        found = [e for e in here.engines.values() if e.replica_id == wanted.replica_id]
        if wanted.model in here.asleep:  # what has no engine, or one that failed, stays as it is
            assert {e.state for e in found} <= {ReplicaState.SLEEPING, FAILED}
            continue
        (engine,) = found
        assert engine.state is SERVING
        assert same_engine(engine.placement, wanted)


class RandomHistory(RuleBasedStateMachine):
    """Plans change, engines become ready, crash, hang; devices vanish; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.here = SimulatedHost({"cpu": MEMORY_MIB, "cpu-b": MEMORY_MIB})
        self.desired: tuple[Placement, ...] = ()

    @initialize(plan=plans())
    def begin(self, plan: tuple[Placement, ...]) -> None:
        self.desired = plan

    @rule()
    def reconcile_pass(self) -> None:
        before = {e.generation: e for e in self.here.engines.values()}
        for action in self.here.run(self.desired):
            self._check_action(action, before)

    def _check_action(self, action: Action, before: dict[str, ObservedReplica]) -> None:
        if not isinstance(action, StartEngine):
            return
        for old in before.values():
            same_id = old.replica_id == action.placement.replica_id
            if same_id and old.state is FAILED and same_engine(old.placement, action.placement):
                waited = self.here.now - old.state_since
                assert waited >= backoff_seconds(old.failures, POLICY)

    @rule(plan=plans())
    def new_plan(self, plan: tuple[Placement, ...]) -> None:
        self.desired = plan

    @rule(data=st.data())
    def something_happens_to_an_engine(self, data: st.DataObject) -> None:
        choices = [
            (engine.generation, event)
            for engine in self.here.engines.values()
            for event in (
                ReplicaEvent.BECAME_READY,
                ReplicaEvent.FELL_ASLEEP,
                ReplicaEvent.EXITED,
            )
            if (engine.state, event)
            in {
                (STARTING, ReplicaEvent.BECAME_READY),
                (STARTING, ReplicaEvent.EXITED),
                (SERVING, ReplicaEvent.EXITED),
                (DRAINING, ReplicaEvent.EXITED),
                (ReplicaState.STOPPING, ReplicaEvent.EXITED),
                (ReplicaState.QUIESCING, ReplicaEvent.EXITED),
                (ReplicaState.FALLING_ASLEEP, ReplicaEvent.FELL_ASLEEP),
                (ReplicaState.FALLING_ASLEEP, ReplicaEvent.EXITED),
                (ReplicaState.SLEEPING, ReplicaEvent.EXITED),
                (ReplicaState.WAKING, ReplicaEvent.BECAME_READY),
                (ReplicaState.WAKING, ReplicaEvent.EXITED),
            }
            and not (engine.ending and event is not ReplicaEvent.EXITED)
        ]
        if choices:
            generation, event = data.draw(st.sampled_from(choices))
            self.here.happen(generation, event)

    @rule(data=st.data(), count=st.sampled_from([None, 0, 1, 5]))
    def requests_come_and_go(self, data: st.DataObject, count: int | None) -> None:
        engines = list(self.here.engines)
        if engines:
            generation = data.draw(st.sampled_from(engines))
            old = self.here.engines[generation]
            self.here.engines[generation] = dataclasses.replace(old, in_flight=count)

    @rule(seconds=st.sampled_from([0.5, 2.0, 25.0, 150.0]))
    def time_passes(self, seconds: float) -> None:
        self.here.now += seconds

    @rule(device=st.sampled_from(["cpu", "cpu-b"]), seen=st.booleans())
    def a_device_is_lost_or_found(self, device: str, seen: bool) -> None:
        if seen:
            self.here.unknown.discard(device)
        else:
            self.here.unknown.add(device)

    @rule(device=st.sampled_from(["cpu", "cpu-b"]), well=st.booleans())
    def a_device_breaks_or_recovers(self, device: str, well: bool) -> None:
        if well:
            self.here.faulted.discard(device)
        else:
            self.here.faulted.add(device)

    @rule(data=st.data())
    def an_engine_outgrows_its_share(self, data: st.DataObject) -> None:
        serving = [engine.generation for engine in self.here.in_state(SERVING)]
        if serving:
            self.here.outgrown.add(data.draw(st.sampled_from(serving)))

    @rule(model=st.sampled_from(["a", "b", "c"]), level=st.sampled_from([0, 1, 2]))
    def a_model_is_put_to_sleep_or_woken(self, model: str, level: int) -> None:
        if level:
            self.here.asleep[model] = level
        else:
            self.here.asleep.pop(model, None)

    @rule(able=st.booleans())
    def engines_are_started_with_or_without_sleep_mode(self, able: bool) -> None:
        self.here.can_sleep = able

    @invariant()
    def nothing_overlaps(self) -> None:
        self.here.check()

    def teardown(self) -> None:
        self._comes_to_rest()
        self.here.asleep = {}  # whoever sleeps is woken, wherever the plan has room for everybody
        self._comes_to_rest()

    def _comes_to_rest(self) -> None:
        here = self.here
        here.settle(self.desired)
        assert_runs_exactly(here, self.desired)
        assert reconcile(self.desired, here.observe(), POLICY, here.asleep) == ()


TestRandomHistory = RandomHistory.TestCase
RandomHistory.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],
)
