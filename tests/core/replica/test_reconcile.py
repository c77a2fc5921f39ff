"""The reconciler keeps its promises in stories of one host; `tests/property` tells random ones."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given

from partitiond.core.hardware import partition
from partitiond.core.hardware.partition import CpuCores, MemoryShare, MigSlice, MpsShare
from partitiond.core.plan.record import Placement, same_engine
from partitiond.core.plan.start_order import StartGains
from partitiond.core.profile.points import SleepingFootprint
from partitiond.core.profile.record import ProfileKind
from partitiond.core.replica import observation
from partitiond.core.replica import reconcile as reconciler
from partitiond.core.replica.observation import HOPELESS_FAILURES
from partitiond.core.replica.reconcile import reconcile
from partitiond.core.replica.sleep import STOPPED
from partitiond.core.replica.states import ReplicaState
from partitiond.core.units import MIB, Bytes
from tests.core import simulated_host
from tests.core.simulated_host import MEMORY_MIB, POLICY, Engine, host, in_words, on, placement

STARTING, DRAINING = ReplicaState.STARTING, ReplicaState.DRAINING
FAILED, STOPPING = ReplicaState.FAILED, ReplicaState.STOPPING
QUIESCING, SLEEPING = ReplicaState.QUIESCING, ReplicaState.SLEEPING
A1, A2, B1, C1 = (placement(name, [n]) for n, name in enumerate(("a-1", "a-2", "b-1", "c-1")))
AT_0, AT_1, AT_2 = (
    {name: placement(name, device_id=f"gpu-{n}") for name in ("a-1", "a-2", "b-1", "c-1")}
    for n in range(3)
)
"""Placements on core 0 of three GPUs."""
MOVED, WIDER, OTHER_BATCH = (
    placement("a-1", [1]), placement("a-1", [0, 1]), placement("a-1", [0], batch=16)
)  # fmt: skip
B_FOR_A1 = placement("b-1", [0])
GUESSED = dataclasses.replace(
    B1, candidate=dataclasses.replace(B1.candidate, profile_kind=ProfileKind.ESTIMATED)
)
SHARE = MemoryShare("gpu-0", Bytes(100 * MIB))
HOPELESS: dict[str, Any] = {"state": STARTING, "failures": 3, "failed_starts": HOPELESS_FAILURES}
RUNS: dict[str, Any] = {"in_flight": 1}
MAKES_WAY = "> drain g0; > stop g0: drained; >; g0 exits; > forget g0, "


def lease(core: int) -> tuple[CpuCores, ...]:
    return (CpuCores("cpu", Bytes(100 * MIB), (core,)),)


def share(name: str, group: str = "", percent: int = 10, mib: int = 50) -> Placement:
    part = MpsShare("gpu-0", Bytes(mib * MIB), percent, isolation_group=group)
    return on(placement(name, memory_mib=mib), part)


def case(
    name: str, there: Sequence[Engine], wanted: Sequence[Placement], story: str, **given: Any
) -> Any:
    return pytest.param(there, wanted, story, given, id=name)


def stories(*cases: Any) -> Any:
    """A test that lives through each of the stories."""

    @pytest.mark.parametrize(("there", "wanted", "story", "given"), cases)
    def lives(
        there: Sequence[Engine], wanted: Sequence[Placement], story: str, given: dict[str, Any]
    ) -> None:
        host(*there, **given).live(wanted, story)

    return lives


test_engines_are_started_in_their_order_where_they_can_be = stories(
    case("one device's engines, one by one", [], [A1, A2],
         "> start a-1; >; g0 is ready; > start a-2; g1 is ready; >"),
    case("not beside the engine of a profile job", [], [AT_0["a-1"], AT_1["b-1"]],
         "> start b-1; >", measuring=("gpu-0",)),
    case("together where cores suffice and it is known what each takes", [], [A1, A2, B1],
         "> start a-1, start b-1; >; g0 is ready; > start a-2", start_cores={"cpu": 2}),
    case("alone, and not overtaken, what was not measured", [(A1, STARTING)], [A1, GUESSED, C1],
         ">; g0 is ready; > start b-1; >; g1 is ready; > start c-1", start_cores={"cpu": 4}),
    case("beside one that wakes, and none before that has its turn",
         [(A1, SLEEPING), (B1, STARTING)], [A1, B1, C1],
         "> wake g0; >; g1 is ready; > start c-1", start_cores={"cpu": 2}),
    case("a model without any before a second replica", [A1], [A1, A2, B1], "> start b-1"),
    case("what failed to start after what did not",
         [(A1, {"state": FAILED, "failures": 1, "failed_starts": 1}),
          (B1, {"state": FAILED, "failures": 2})], [A1, B1, C1],
         "> start b-1; g2 is ready; > start c-1; g3 is ready; > start a-1", now=8.0),
    case("not what lacks files on its host", [], [A1, A2], "> start a-2",
         without_files=("a-1",)),
    case("not on what a profile job holds", [], [A1, A2], "> start a-2", leases=lease(0)),
    case("not on a device nobody sees, nor makes way", [A1], [WIDER, B1], ">",
         unknown={"cpu"}),
    case("not on a device that is gone", [], [placement("a-1", device_id="gpu-7")], ">"),
    case("figures alone move nothing", [A1], [dataclasses.replace(
        A1, candidate=dataclasses.replace(A1.candidate, capacity_req_per_s=9.0))], ">"),
    case("a start that takes too long fails and backs off", [(A1, STARTING)], [A1],
         "101.9 s pass; >; 0.1 s pass; > stop g0: start-deadline; >; g0 exits; > start a-1;"
         " g1 broke; g1 exits; >; 1 s pass; > start a-1"),
    case("a failed replica waits out its back-off", [(A1, {"state": FAILED, "failures": 3})],
         [A1], "1.9 s pass; >; 0.1 s pass; > start a-1"),
    case("one that died starts at once, when nothing of it is left, whatever room there is",
         [on(A1, SHARE)], [on(A1, SHARE)], "g0 broke; >; g0 exits; > start a-1"),
    case("with a new place it starts at once", [(A1, {"state": FAILED, "failures": 9})],
         [MOVED], "> forget g0, start a-1"),
)  # fmt: skip


test_a_start_that_failed_too_often_yields_to_what_could_start_in_its_turn = stories(
    case("nobody waits", [(A1, HOPELESS)], [A1], ">"),
    case("another waits", [(A1, HOPELESS)], [A1, B1],
         "> stop g0: yields; > start b-1; g0 exits; >; g1 is ready; > start a-1"),
    case("it failed less often", [(A1, {**HOPELESS, "failed_starts": HOPELESS_FAILURES - 1})],
         [A1, B1], ">"),
    case("the other is hopeless too", [(A1, HOPELESS), (B1, {**HOPELESS, "state": FAILED})],
         [A1, B1], ">", now=8.0),
    case("there is no room for the other", [(A1, HOPELESS)], [A1, B1], ">", mib=150),
    case("the other starts elsewhere", [(AT_0["a-1"], HOPELESS)], [AT_0["a-1"], AT_1["b-1"]],
         "> start b-1"),
)  # fmt: skip


test_engines_leave_in_their_order_and_make_way = stories(
    case("until its deadline", [(A1, {"state": DRAINING, "in_flight": 3})], [],
         "19.9 s pass; >; 0.1 s pass; > stop g0: drain-deadline"),
    case("what starts is stopped at once", [(A1, STARTING)], [], "> stop g0: not-wanted"),
    case("free room: the new one serves first", [A1], [MOVED],
         "> start a-1; >; g1 is ready; > drain g0; > stop g0: drained; g0 exits;"
         " > forget g0; >"),
    case("no free room: the old one makes way", [A1], [WIDER], MAKES_WAY + "start a-1"),
    case("one at a time", [A1, A2], [OTHER_BATCH, placement("a-2", [1], batch=16)],
         MAKES_WAY + "start a-1; g2 is ready; > drain g1"),
    case("no second one after it",
         [placement("a-1", [1], memory_mib=200), placement("b-1", [0, 2, 3], memory_mib=200)],
         [placement("a-1", [0], memory_mib=200), placement("b-1", [1, 2, 3], memory_mib=200)],
         "> drain g1; > stop g1: drained; >", mib=400),
    case("none for a start that a lease stops anyway", [A1], [WIDER], ">", leases=lease(1)),
    case("none for what is withheld", [A1, A2], [A1, B1],
         "> drain g1; > stop g1: drained; g1 exits; > forget g1; >; all may start;"
         " > start b-1", mib=250, withheld=("b-1",)),
    case("another of its model is coming", [AT_0["a-1"]],
         [placement("a-1", device_id="gpu-0", batch=16), AT_1["a-2"]],
         "> start a-2; >; g1 is ready; > drain g0"),
    case("a start ahead of its own goes on", [AT_0["a-1"]],
         [AT_0["b-1"], AT_1["c-1"], placement("a-1", [1], device_id="gpu-1")],
         "> start c-1; >; g1 is ready; > start a-1; >; g2 is ready; > drain g0"),
    case("a GPU passes to another isolation group", [share("a-1", "a"), share("a-2", "a")],
         [share("b-1", "b"), share("b-2", "b")], "> drain g0, drain g1;"
         " > stop g0: drained, stop g1: drained; g0 exits; > forget g0; g1 exits;"
         " > forget g1, start b-1; g2 is ready; > start b-2"),
)  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [
        {"withheld": ("a-1",)},
        {"not_ready": ("a",)},
        {"without_files": ("a-1",)},
        {"faulted": {"gpu-1"}},
        {},
    ],
    ids=["withheld", "no files", "not there", "device broken", "failed twice"],
)
def test_the_last_engine_of_a_model_stays_while_its_successor_cannot_start(
    given: dict[str, Any],
) -> None:
    """Though another model waits for its room: the plan counted on a successor that comes."""
    failed = [] if given else [(AT_1["a-1"], {"state": FAILED, "failures": 2})]
    wanted = [AT_1["a-1"], AT_0["b-1"]]
    host(AT_0["a-1"], *failed, **given).live(wanted, ">; >")
    # Nor does what another one waits for in turn.
    host(AT_0["a-1"], AT_2["b-1"], *failed, **given).live([*wanted, AT_2["c-1"]], ">; >")


test_an_engine_that_outgrew_its_share_leaves = stories(
    case("it starts again once it is gone", [(A1, RUNS), (B1, RUNS)], [A1, B1],
         "> drain g0; >; g0 has 0; > stop g0: drained; >; g0 exits; > start a-1;"
         " g2 is ready; >", outgrown={"g0"}),
    case("nothing starts beside it, however much room was promised",
         [(on(A1, SHARE), RUNS)], [on(A1, SHARE)],
         "> drain g0; >; >; g0 has 0; > stop g0: drained; g0 exits; > start a-1",
         outgrown={"g0"}),
    case("one of a model at a time", [A1, A2, B1], [A1, A2, B1],
         "> drain g0, drain g2; > stop g0: drained, stop g2: drained; g0 exits; g2 exits;"
         " > start b-1; g3 is ready; > start a-1; >; g4 is ready;"
         " > drain g1; > stop g1: drained", outgrown={"g0", "g1", "g2"}),
    case("it falls asleep instead", [A1], [A1], "> rest g0", outgrown={"g0"},
         asleep={"a": 1}),
)  # fmt: skip


GROWN_ASLEEP = on(
    dataclasses.replace(
        A1,
        candidate=dataclasses.replace(
            A1.candidate, asleep=SleepingFootprint(Bytes(10 * MIB), Bytes(10 * MIB))
        ),
    ),
    MpsShare("gpu-0", Bytes(100 * MIB), 80),
)
SLICE = MigSlice("gpu-0", Bytes(100 * MIB), "1g.10gb", 0, 1)
DOZES: dict[str, Any] = {"asleep": {"a": 1}}


test_models_sleep_and_wake = stories(
    case("it drains first", [(A1, {"in_flight": 2})], [A1],
         "> rest g0; >; g0 has 0; > sleep g0 at 1; >; g0 fell asleep; >", **DOZES),
    case("woken before it slept", [A1], [A1], "> rest g0; all wake; > wake g0; >", **DOZES),
    case("one at a time on a device", [A1, A2], [A1, A2, B1],
         "> rest g0, rest g1, start b-1; g2 is ready; > sleep g0 at 2; >; g0 fell asleep;"
         " > sleep g1 at 2; g1 fell asleep; all wake; > wake g0; >; g0 is ready; > wake g1",
         asleep={"a": 2}),
    case("without sleep mode it is stopped", [A1], [A1],
         "> drain g0; > stop g0: drained; g0 exits; >; >", can_sleep=False, **DOZES),
    case("a sleeper that dies is started when woken", [(A1, SLEEPING)], [A1],
         "g0 broke; g0 exits; >; all wake; > start a-1", **DOZES),
    case("a wake that takes too long fails", [(A1, SLEEPING)], [A1],
         "> wake g0; 101.9 s pass; >; 0.1 s pass; > stop g0: failed"),
    case("a sleeper that moved is stopped without a drain", [(A1, SLEEPING)], [MOVED],
         "> stop g0: not-wanted, start a-1"),
    case("who is not wanted is ended while it rests or sleeps",
         [(A1, {"state": QUIESCING, "in_flight": 1}), (A2, SLEEPING)], [],
         "> stop g1: not-wanted, drain g0", **DOZES),
    case("its room is there but for what it holds asleep", [(A1, SLEEPING)],
         [A1, placement("b-1", [0], memory_mib=130)], "> start b-1", mib=150, **DOZES),
    case("and not more", [(A1, SLEEPING)], [A1, placement("b-1", [0], memory_mib=131)], ">",
         mib=150, **DOZES),
    case("one whose room was given away waits", [(A1, SLEEPING), B_FOR_A1], [A1, B_FOR_A1],
         ">", mib=150),
    case("until it is free", [(A1, SLEEPING), B_FOR_A1], [A1],
         "> drain g1; > stop g1: drained; g1 exits; > forget g1, wake g0; g0 is ready; >",
         mib=150),
    case("what has to move makes way for it", [(A1, SLEEPING), B_FOR_A1,
         placement("b-2", [2])], [A1, placement("b-1", [1]), placement("b-2", [2])],
         "> drain g1", not_ready=("b",)),
    case("a MIG slice stays its own", [(on(A1, SLICE), SLEEPING)],
         [on(A1, SLICE), on(B1, SLICE)], ">; all wake; > wake g0", **DOZES),
    case("its device's sharing mode stays", [(GROWN_ASLEEP, SLEEPING)],
         [GROWN_ASLEEP, on(B1, partition.WholeDevice("gpu-0", Bytes(100 * MIB)))], ">",
         **DOZES),
    case("and computes for others", [(GROWN_ASLEEP, SLEEPING)],
         [GROWN_ASLEEP, on(B1, MpsShare("gpu-0", Bytes(100 * MIB), 100))], "> start b-1",
         **DOZES),
    case("at zero it ends, and starts anew when woken", [(A1, {"in_flight": 2})], [A1],
         "> drain g0; >; g0 has 0; > stop g0: drained; g0 exits; >; >; all wake; > start a-1",
         asleep={"a": STOPPED}),
    case("who is woken waits for the one that goes to zero",
         [(B_FOR_A1, RUNS)], [A1, B_FOR_A1],
         "> drain g0; >; g0 has 0; > stop g0: drained; >; g0 exits; > start a-1",
         mib=150, asleep={"b": STOPPED}),
)  # fmt: skip


test_engines_leave_a_faulted_device = stories(
    case("all its engines end, each once, and wait", [AT_0["a-1"], placement("b-1", [1],
         device_id="gpu-0"), (placement("c-1", [2], device_id="gpu-0"), SLEEPING), AT_1["a-2"]],
         [AT_0["a-1"], placement("b-1", [1], device_id="gpu-0"),
          placement("c-1", [2], device_id="gpu-0"), AT_1["a-2"]],
         "> stop g0: failed, stop g1: failed, stop g2: failed; >; g0 exits; g1 exits;"
         " g2 exits; >; 8 s pass; >", faulted={"gpu-0"}, asleep={"c": 1}),
    case("nothing starts there", [(B1, STOPPING)], [A1], ">; all may start; > start a-1",
         faulted={"cpu"}),
    case("what leaves does not come back", [(A1, {"state": DRAINING, "in_flight": 4})], [],
         "> stop g0: failed; g0 exits; > forget g0", faulted={"cpu"}),
)  # fmt: skip


def test_actions_carry_the_bounds_of_the_policy() -> None:
    here = host(A1, (A2, DRAINING))
    assert reconcile((B1,), here.observe(), POLICY) == (
        observation.StopEngine(
            "a-2", "g1", observation.StopReason.DRAINED, POLICY.stop_grace_seconds
        ),
        observation.DrainReplica("a-1", "g0"),
        observation.StartEngine(B1),
    )


def test_of_two_engines_of_one_replica_the_serving_one_stays() -> None:
    (action,) = reconcile((A1,), host((A1, STARTING), A1).observe(), POLICY)
    assert in_words(action) == "stop g0: not-wanted"


def test_the_engine_that_brings_most_back_by_the_second_starts_first() -> None:
    gains = StartGains(seconds={"a-1": 60.0, "b-1": 20.0})
    (action,) = reconcile((A1, B1), host().observe(), POLICY, {}, gains)
    assert in_words(action) == "start b-1"


def test_failures_double_the_wait_up_to_a_cap_until_an_engine_served_long() -> None:
    policy = observation.ReconcilePolicy(backoff_base_seconds=1.0, backoff_max_seconds=60.0)
    waits = [reconciler.backoff_seconds(failures, policy) for failures in range(9)]
    assert waits == [0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert reconciler.backoff_seconds(10**6, policy) == 60.0
    assert reconciler.failures_after(5, POLICY.backoff_max_seconds, POLICY) == 1
    assert reconciler.failures_after(5, 0.0, POLICY) == 6


@given(simulated_host.plans(), simulated_host.plans())
def test_a_model_whose_move_finds_free_room_never_stops_serving(
    first: tuple[Placement, ...], second: tuple[Placement, ...]
) -> None:
    """With twice the cores and memory there is always room beside; then there is rest."""
    shifted = []
    for one in second:
        cores = tuple(core + simulated_host.CORES for core in one.partition.cores)  # type: ignore[union-attr]
        shifted.append(on(one, CpuCores(one.device_id, one.partition.memory_bytes, cores)))
    here = simulated_host.SimulatedHost({"cpu": 2 * MEMORY_MIB, "cpu-b": 2 * MEMORY_MIB})
    here.settle(first)
    both = {p.model for p in first} & {p.model for p in shifted}
    for _ in range(100):
        here.run(tuple(shifted))
        assert both <= {e.placement.model for e in here.in_state(ReplicaState.SERVING)}
        here.calm_step()
        here.now += 1.0
    serving = {e.replica_id: e.placement for e in here.in_state(ReplicaState.SERVING)}
    assert serving.keys() == {p.replica_id for p in shifted}
    assert all(same_engine(serving[p.replica_id], p) for p in shifted)
