"""The progress of a plan counts serving, awaited and failed replicas."""

import dataclasses

import pytest

from partitiond.core.plan.record import Placement
from partitiond.core.replica.convergence import (
    Ahead,
    Cause,
    Convergence,
    Explanations,
    Files,
    PlanState,
    Standing,
    convergence,
    replaced_by,
    settling,
    superseded,
)
from partitiond.core.replica.obstacles import Obstacle, ObstacleKind
from partitiond.core.replica.states import ReplicaState
from tests.controller.samples import plan
from tests.core.simulated_host import POLICY, SimulatedHost, placement

SERVING, STARTING, FAILED = ReplicaState.SERVING, ReplicaState.STARTING, ReplicaState.FAILED
NEW = placement("a-1", [0])
OLD = placement("a-1", [1], batch=4)
"""Another engine under the same name."""


@pytest.fixture
def host() -> SimulatedHost:
    return SimulatedHost({"cpu": 1000, "gpu": 1000})


def asked(host: SimulatedHost, *wanted: Placement, told: Explanations | None = None) -> Convergence:
    return convergence(plan(*wanted), host.observe(), POLICY, host.asleep, told or Explanations())


def standings(now: Convergence) -> list[tuple[str, Standing]]:
    return [(p.replica_id, p.standing) for p in now.replicas]


def test_no_plan_has_converged(host: SimulatedHost) -> None:
    now = convergence(None, host.observe(), POLICY)
    assert (now.plan_id, now.state, now.wanted) == ("", PlanState.CONVERGED, 0)


def test_an_engine_of_the_name_alone_does_not_serve_the_plan(host: SimulatedHost) -> None:
    """It holds another place, or another batch: its replica waits, and it has to leave."""
    host.add(OLD, SERVING)
    now = asked(host, NEW)
    assert (now.state, now.serving) == (PlanState.CONVERGING, 0)
    assert standings(now) == [("a-1", Standing.WAITING), ("a-1", Standing.LEAVING)]


def test_who_waits_for_an_engine_that_stays_has_failed_too(host: SimulatedHost) -> None:
    """Its own replica cannot start, so that it serves on: nobody waits for its room for ever."""
    host.add(OLD, SERVING)
    host.withheld = ("a-1",)
    elsewhere = placement("a-1", [0], device_id="gpu")
    now = asked(host, elsewhere, placement("b-1", [1]))
    assert now.state is PlanState.FAILED
    assert standings(now) == [
        ("a-1", Standing.FAILED),
        ("b-1", Standing.FAILED),
        ("a-1", Standing.STAYING),
    ]
    assert "a-1 serves on there" in now.replicas[1].why
    host.withheld = ()
    assert asked(host, elsewhere, placement("b-1", [1])).state is PlanState.CONVERGING


def test_who_waits_for_anything_else_may_still_come(host: SimulatedHost) -> None:
    """Though a replica of its model failed, and beside an engine that stays for it."""
    elsewhere = placement("a-1", [0], device_id="gpu")
    host.withheld = ("a-1",)
    host.leases = (placement("x-1", [2]).partition,)  # type: ignore[assignment]
    host.add(OLD, SERVING)
    for wanted in (placement("b-1", [2]), placement("b-1", [3])):  # a job's place, and its own turn
        now = asked(host, elsewhere, wanted)
        assert standings(now)[1] == ("b-1", Standing.WAITING)
        assert now.state is PlanState.CONVERGING


def test_who_waits_for_room_that_the_plan_gave_to_others_has_not_failed(
    host: SimulatedHost,
) -> None:
    host.memory_mib["cpu"] = 150
    host.add(NEW, SERVING)
    now = asked(host, NEW, placement("b-1", [1]))
    assert now.why == "b-1 waits for room on its device"
    assert now.state is PlanState.CONVERGING


def test_who_waits_for_an_engine_that_leaves_may_still_come(host: SimulatedHost) -> None:
    host.add(OLD, ReplicaState.DRAINING)
    host.withheld = ("a-1",)
    now = asked(host, placement("a-1", [0], device_id="gpu"), placement("b-1", [1]))
    assert ("b-1", Standing.WAITING) in standings(now)


def test_old_engines_are_waited_for(host: SimulatedHost) -> None:
    host.add(NEW, SERVING)
    old = host.add(OLD, ReplicaState.DRAINING, in_flight=2)
    now = asked(host, NEW)
    assert (now.state, now.serving) == (PlanState.CONVERGING, 1)
    assert now.why == "a-1 drains: finishes 2 requests"
    del host.engines[old.generation]
    assert asked(host, NEW).state is PlanState.CONVERGED


def test_progress_grows_with_every_step_of_a_change(host: SimulatedHost) -> None:
    seen = []
    host.add(OLD, SERVING)
    host.add(placement("b-1", device_id="gpu"), SERVING)
    wanted = (NEW, placement("b-1", device_id="gpu"))
    for _ in range(8):
        seen.append(asked(host, *wanted).fraction)
        host.run(wanted)
        seen.append(asked(host, *wanted).fraction)
        host.calm_step()
    assert seen == sorted(seen)
    assert len(set(seen)) > 4
    assert seen[-1] == 1.0


@pytest.mark.parametrize("state", [FAILED, STARTING])
def test_three_failures_in_a_row_are_one(host: SimulatedHost, state: ReplicaState) -> None:
    """Also while it is tried a fourth time."""
    host.add(NEW, state, failures=3, last_error="no memory\n    a log line\n    another")
    now = asked(host, NEW)
    assert now.state is PlanState.FAILED
    assert now.failures[0].cause is Cause.ENGINE
    assert now.why == "a-1 failed 3 times in a row: no memory a log line"


@pytest.mark.parametrize("error", ["it exited", "a-1 did not start: it exited"])
def test_a_failed_start_is_told_alike_whoever_saw_it(host: SimulatedHost, error: str) -> None:
    """The start itself names the replica, who finds the engine ended does not."""
    host.add(NEW, FAILED, failures=3, last_error=error)
    assert asked(host, NEW).why == "a-1 failed 3 times in a row: it exited"


@pytest.mark.parametrize("state", [FAILED, STARTING])
def test_two_are_not(host: SimulatedHost, state: ReplicaState) -> None:
    host.add(NEW, state, failures=2, last_error="no memory")
    assert asked(host, NEW).state is PlanState.CONVERGING


def test_who_serves_after_failures_serves(host: SimulatedHost) -> None:
    host.add(NEW, SERVING, failures=7)
    assert asked(host, NEW).state is PlanState.CONVERGED


def test_failures_of_another_engine_of_the_name_do_not_count(host: SimulatedHost) -> None:
    host.add(OLD, FAILED, failures=9)
    assert asked(host, NEW).state is PlanState.CONVERGING


def test_a_failure_is_told_only_once_all_else_is_done(host: SimulatedHost) -> None:
    other = placement("b-1", device_id="gpu")
    host.add(NEW, FAILED, failures=3)
    starting = host.add(other, STARTING)
    now = asked(host, NEW, other)
    assert now.state is PlanState.CONVERGING
    assert standings(now) == [("a-1", Standing.FAILED), ("b-1", Standing.STARTING)]
    assert now.why == "b-1 starts"
    host.engines[starting.generation] = dataclasses.replace(starting, state=SERVING)
    assert asked(host, NEW, other).state is PlanState.FAILED


def test_nobody_waits_for_an_old_engine_whose_replacement_failed(host: SimulatedHost) -> None:
    host.add(OLD, SERVING)
    host.add(NEW, FAILED, failures=3)
    now = asked(host, NEW)
    assert now.state is PlanState.FAILED
    assert standings(now) == [("a-1", Standing.FAILED), ("a-1", Standing.STAYING)]


def test_but_for_one_of_another_model(host: SimulatedHost) -> None:
    host.add(NEW, FAILED, failures=3)
    host.add(placement("b-1", [1]), SERVING)
    assert asked(host, NEW).state is PlanState.CONVERGING


def test_an_engine_that_cannot_be_ended_is_a_failure(host: SimulatedHost) -> None:
    host.add(NEW, SERVING)
    host.add(OLD, ReplicaState.STOPPING, stuck=True, last_error="it is in the kernel.")
    now = asked(host, NEW)
    assert now.state is PlanState.FAILED
    assert now.why == "a-1 cannot be ended: it is in the kernel."


def test_an_engine_that_ends_does_not_serve(host: SimulatedHost) -> None:
    host.add(NEW, SERVING, ending=True)
    now = asked(host, NEW)
    assert (now.state, now.serving) == (PlanState.CONVERGING, 0)


def test_what_sleeps_is_where_it_should_be(host: SimulatedHost) -> None:
    host.asleep = {"a": 1}
    now = asked(host, NEW)
    assert (now.state, now.asleep, now.wanted) == (PlanState.CONVERGED, 1, 1)


def test_what_wakes_does_not_serve_yet(host: SimulatedHost) -> None:
    host.add(NEW, ReplicaState.WAKING)
    assert standings(asked(host, NEW)) == [("a-1", Standing.STARTING)]


def test_a_broken_device_is_a_failure_with_its_reason(host: SimulatedHost) -> None:
    host.faulted = {"cpu"}
    now = asked(host, NEW, told=Explanations(faults={"cpu": "Xid 79"}))
    assert now.failures[0].cause is Cause.DEVICE
    assert "Xid 79" in now.why


def test_so_is_one_that_is_gone(host: SimulatedHost) -> None:
    now = asked(host, placement("a-1", device_id="gone"))
    assert (now.state, now.failures[0].cause) == (PlanState.FAILED, Cause.DEVICE)


def test_but_not_one_that_nobody_can_see_now(host: SimulatedHost) -> None:
    host.unknown = {"cpu"}
    now = asked(host, NEW)
    assert now.state is PlanState.CONVERGING
    assert now.why == "a-1 waits until its device can be seen: test"


@pytest.mark.parametrize(
    ("failures", "state"),
    [(0, PlanState.CONVERGING), (2, PlanState.CONVERGING), (3, PlanState.FAILED)],
)
def test_files_that_cannot_be_fetched(host: SimulatedHost, failures: int, state: PlanState) -> None:
    host.not_ready = ("a",)
    now = asked(host, NEW, told=Explanations(files={"a": Files(failures, "no such repository.")}))
    assert now.state is state
    assert "no such repository" in now.why
    assert [p.cause for p in now.failures] == [Cause.FILES] * (failures == 3)


@pytest.mark.parametrize(("failures", "fails"), [(2, False), (3, True)])
def test_files_that_do_not_get_to_one_host(host: SimulatedHost, failures: int, fails: bool) -> None:
    host.without_files = ("a-1",)
    there = Files(failures, "on gpu-2: no space left.")
    now = asked(host, NEW, told=Explanations(copies={"a-1": there}))
    assert now.state is (PlanState.FAILED if fails else PlanState.CONVERGING)
    assert "on gpu-2: no space left" in now.why
    host.without_files = ()
    assert "no space" not in asked(host, NEW, told=Explanations(copies={"a-1": there})).why


@pytest.mark.parametrize(
    ("there", "why"),
    [
        ([], "waits for its turn to start"),
        ([(placement("b-1", [1]), STARTING)], "starts after b-1"),
        ([(placement("b-1", [0]), ReplicaState.DRAINING)], "waits for the room of b-1"),
        ([(NEW, FAILED)], "failed and is started again soon: no memory"),
    ],
)
def test_why_a_replica_has_no_engine_yet(
    host: SimulatedHost, there: list[tuple[Placement, ReplicaState]], why: str
) -> None:
    for other, state in there:
        host.add(other, state, failures=1, last_error="no memory")
    own = next(p for p in asked(host, NEW).replicas if p.standing is Standing.WAITING)
    assert own.why == why


def test_a_profile_job_that_holds_the_place_is_named(host: SimulatedHost) -> None:
    host.leases = (placement("x-1", [0]).partition,)  # type: ignore[assignment]
    assert asked(host, NEW).why == "a-1 waits until a profile job gives its place back"


def test_an_engine_that_a_profile_job_starts_is_waited_for(host: SimulatedHost) -> None:
    host.measuring = ("elsewhere",)
    assert asked(host, NEW).why == "a-1 waits for its turn to start"
    host.measuring = (NEW.device_id,)
    assert asked(host, NEW).why == "a-1 starts after the engine of a profile job"


def test_the_last_line_of_a_start_is_told(host: SimulatedHost) -> None:
    engine = host.add(NEW, STARTING)
    host.now += 12.7
    now = asked(
        host, NEW, told=Explanations(progress={("a-1", engine.generation): "loads weights"})
    )
    assert now.why == "a-1 starts: loads weights"
    assert now.replicas[0].seconds == 12


def test_a_plan_gives_way_to_another(host: SimulatedHost) -> None:
    other = dataclasses.replace(plan(OLD), id="plan-2")
    replaced = replaced_by(plan(NEW), other, "ada@laptop")
    now = superseded("plan-1", replaced)
    assert now.state is PlanState.SUPERSEDED
    assert now.why == "plan-1 was replaced by plan-2, which ada@laptop applied"
    assert not replaced.same


@pytest.mark.parametrize(
    ("wanted", "same"), [((NEW,), True), ((), False), ((NEW, placement("a-2", [1])), False)]
)
def test_a_plan_of_the_same_engines_is_the_same(wanted: tuple[Placement, ...], same: bool) -> None:
    assert replaced_by(plan(NEW), plan(*wanted), "").same is same


def test_it_is_not_over_while_a_plan_is_made(host: SimulatedHost) -> None:
    done = asked(host)
    assert settling(done, Ahead(), "").state is PlanState.CONVERGED
    assert settling(done, Ahead(planning=True), "").state is PlanState.CONVERGING
    measuring = settling(done, Ahead(planning=True, measuring="job-1"), "")
    assert measuring.state is PlanState.CONVERGED, "that may take an hour"


def test_a_loop_that_breaks_is_why(host: SimulatedHost) -> None:
    now = settling(asked(host, NEW), Ahead(), "the proxy does not answer.")
    assert now.why == "the daemon cannot look after its engines: the proxy does not answer."
    assert settling(asked(host), Ahead(), "x").why == ""


def test_only_what_happens_changes_the_picture(host: SimulatedHost) -> None:
    host.add(NEW, STARTING)
    before = asked(host, NEW)
    host.now += 60
    later = asked(host, NEW)
    assert later.picture == before.picture
    assert later != before
    host.calm_step()
    assert asked(host, NEW).picture != before.picture


def test_what_is_withheld_has_failed_with_the_reason_of_its_obstacle(host: SimulatedHost) -> None:
    seen = dataclasses.replace(host.observe(), withheld=("a-1",))
    why = Obstacle("a", ObstacleKind.FILES_MISSING, "there is no such repository.", "", "")
    now = convergence(plan(NEW), seen, POLICY, told=Explanations(obstacles={"a": why}))
    assert (now.state, now.failures[0].cause) == (PlanState.FAILED, Cause.FILES)
    assert now.why == "a-1 is not started: there is no such repository."
