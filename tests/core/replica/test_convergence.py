"""The progress of a plan counts serving, awaited and failed replicas."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from partitiond.core.plan.record import Placement
from partitiond.core.replica import convergence as progress
from partitiond.core.replica.convergence import Convergence, Explanations, Files, PlanState
from partitiond.core.replica.obstacles import Obstacle, ObstacleKind
from partitiond.core.replica.states import ReplicaState
from tests.controller.samples import plan
from tests.core.simulated_host import POLICY, Engine, SimulatedHost, host, placement

STARTING, FAILED = ReplicaState.STARTING, ReplicaState.FAILED
DRAINING, STOPPING = ReplicaState.DRAINING, ReplicaState.STOPPING
NEW, OLD = placement("a-1", [0]), placement("a-1", [1], batch=4)
"""The second is another engine under the same name."""
ELSEWHERE = placement("a-1", [0], device_id="gpu-0")
B0, B1, B2, B_ELSEWHERE = (
    placement("b-1", [0]), placement("b-1", [1]), placement("b-1", [2]),
    placement("b-1", device_id="gpu-0"),
)  # fmt: skip
LEASE = (placement("x-1", [2]).partition,)
HOPELESS = {"state": FAILED, "failures": 3, "last_error": "no memory\n    a log line\n    more"}
UNFETCHED = Obstacle("a", ObstacleKind.FILES_MISSING, "there is no such repository.", "", "")


def asked(here: SimulatedHost, *wanted: Placement, told: Explanations | None = None) -> Convergence:
    return progress.convergence(
        plan(*wanted), here.observe(), POLICY, here.asleep, told or Explanations()
    )


def case(
    name: str,
    there: Sequence[Engine],
    wanted: Sequence[Placement],
    found: str,
    why: str = "",
    *,
    told: Explanations | None = None,
    cause: progress.Cause | None = None,
    **given: Any,
) -> Any:
    """A host, a plan, the state with each replica's standing, a part of the reason, its cause."""
    return pytest.param((host(*there, **given), wanted, told), found, why, cause, id=name)


ENGINE, DEVICE, FILES = progress.Cause.ENGINE, progress.Cause.DEVICE, progress.Cause.FILES


@pytest.mark.parametrize(
    ("asking", "found", "why", "cause"),
    [
        # It holds another place, or another batch: its replica waits, and it has to leave.
        case("an engine of the name alone", [OLD], [NEW], "converging: a-1 waiting, a-1 leaving"),
        # Its own replica cannot start, so that it serves on: nobody waits for its room for ever.
        case("who waits for one that stays", [OLD], [ELSEWHERE, B1],
             "failed: a-1 failed, b-1 failed, a-1 staying", withheld=("a-1",)),
        case("who waits for one that moves", [OLD], [ELSEWHERE, B1],
             "converging: a-1 waiting, b-1 waiting, a-1 leaving"),
        case("who waits for one that leaves", [(OLD, DRAINING)], [ELSEWHERE, B1],
             "converging: a-1 failed, b-1 waiting, a-1 leaving", withheld=("a-1",)),
        case("who waits for room that the plan gave to others", [NEW], [NEW, B1],
             "converging: a-1 serving, b-1 waiting", "b-1 waits for room on its device", mib=150),
        case("old engines are waited for", [NEW, (OLD, {"state": DRAINING, "in_flight": 2})],
             [NEW], "converging: a-1 serving, a-1 leaving", "a-1 drains: finishes 2 requests"),
        case("three failures in a row", [(NEW, HOPELESS)], [NEW], "failed: a-1 failed",
             "a-1 failed 3 times in a row: no memory a log line", cause=ENGINE),
        case("and a fourth start", [(NEW, {**HOPELESS, "state": STARTING})], [NEW],
             "failed: a-1 failed", "a-1 failed 3 times in a row: no memory a log line"),
        # The start itself names the replica, who finds the engine ended does not.
        case("a failed start is told alike whoever saw it",
             [(NEW, {**HOPELESS, "last_error": "a-1 did not start: it exited"})], [NEW],
             "failed: a-1 failed", "a-1 failed 3 times in a row: it exited"),
        case("two failures are none", [(NEW, {**HOPELESS, "failures": 2})], [NEW],
             "converging: a-1 waiting", "a-1 failed and is started again soon: no memory"),
        case("a failure while another starts", [(NEW, HOPELESS), (B_ELSEWHERE, STARTING)],
             [NEW, B_ELSEWHERE], "converging: a-1 failed, b-1 starting", "b-1 starts"),
        case("an old engine whose replacement failed", [OLD, (NEW, HOPELESS)], [NEW],
             "failed: a-1 failed, a-1 staying"),
        case("one that cannot be ended",
             [NEW, (OLD, {"state": STOPPING, "stuck": True, "last_error": "it is in the kernel."})],
             [NEW], "failed: a-1 serving, a-1 failed",
             "a-1 cannot be ended: it is in the kernel."),
        case("one that ends", [(NEW, ReplicaState.FAILING)], [NEW], "converging: a-1 waiting"),
        case("one that wakes", [(NEW, ReplicaState.WAKING)], [NEW], "converging: a-1 starting"),
        case("one that is to sleep", [], [NEW], "converged: a-1 asleep", asleep={"a": 1}),
        case("a broken device", [], [NEW], "failed: a-1 failed", "Xid 79", faulted={"cpu"},
             told=Explanations(faults={"cpu": "Xid 79"}), cause=DEVICE),
        case("one that is gone", [], [placement("a-1", device_id="gone")], "failed: a-1 failed",
             cause=DEVICE),
        case("one that nobody can see now", [], [NEW], "converging: a-1 waiting",
             "a-1 waits until its device can be seen: test", unknown={"cpu"}),
        case("its turn", [], [NEW], "converging: a-1 waiting", "a-1 waits for its turn to start"),
        case("it starts after another", [(B1, STARTING)], [NEW, B1],
             "converging: b-1 starting, a-1 waiting", "a-1 starts after b-1"),
        case("the room of another", [(B0, DRAINING)], [NEW],
             "converging: a-1 waiting, b-1 leaving", "a-1 waits for the room of b-1"),
        case("a profile job's place", [], [B2], "converging: b-1 waiting",
             "b-1 waits until a profile job gives its place back", leases=LEASE),
        case("a profile job's engine", [], [NEW], "converging: a-1 waiting",
             "a-1 starts after the engine of a profile job", measuring=("cpu",)),
        case("the last line of a start", [(NEW, STARTING)], [NEW], "converging: a-1 starting",
             "a-1 starts: loads weights", now=12.7,
             told=Explanations(progress={("a-1", "g0"): "loads weights"})),
        case("withheld for its obstacle", [], [NEW], "failed: a-1 failed",
             "a-1 is not started: there is no such repository.", withheld=("a-1",), cause=FILES,
             told=Explanations(obstacles={"a": UNFETCHED})),
    ],
)  # fmt: skip
def test_what_is_said_of_a_plan(
    asking: tuple[SimulatedHost, Sequence[Placement], Explanations | None],
    found: str,
    why: str,
    cause: progress.Cause | None,
) -> None:
    here, wanted, told = asking
    now = asked(here, *wanted, told=told)
    state, _, there = found.partition(": ")
    assert now.state.value == state
    assert [f"{p.replica_id} {p.standing.value}" for p in now.replicas] == [
        one for one in there.split(", ") if not one.endswith(("serving", "asleep"))
    ]
    assert any(
        why in text for text in (now.why, *(f"{p.replica_id} {p.why}" for p in now.replicas))
    )
    assert cause in {None, *(p.cause for p in now.failures)}
    assert now.serving == found.count(" serving")
    assert now.asleep == found.count(" asleep")


def test_no_plan_has_converged() -> None:
    now = progress.convergence(None, host().observe(), POLICY)
    assert (now.plan_id, now.state, now.wanted) == ("", PlanState.CONVERGED, 0)


@pytest.mark.parametrize(("failures", "fails"), [(0, False), (2, False), (3, True)])
def test_files_that_do_not_come(failures: int, fails: bool) -> None:
    """Those of a model, and those that do not get to one host."""
    model = Explanations(files={"a": Files(failures, "no such repository.")})
    copies = Explanations(copies={"a-1": Files(failures, "on gpu-2: no space left.")})
    for here, told, why in (
        (host(not_ready=("a",)), model, "no such repository"),
        (host(without_files=("a-1",)), copies, "on gpu-2: no space left"),
    ):
        now = asked(here, NEW, told=told)
        assert now.state is (PlanState.FAILED if fails else PlanState.CONVERGING)
        assert why in now.why
        assert [p.cause for p in now.failures] == [FILES] * fails
    assert "no space" not in asked(host(), NEW, told=copies).why


def test_progress_grows_with_every_step_of_a_change() -> None:
    seen, here, wanted = [], host(OLD, B_ELSEWHERE), (NEW, B_ELSEWHERE)
    for _ in range(8):
        seen.append(asked(here, *wanted).fraction)
        here.run(wanted)
        seen.append(asked(here, *wanted).fraction)
        here.calm_step()
    assert seen == sorted(seen)
    assert len(set(seen)) > 4
    assert seen[-1] == 1.0


def test_a_plan_gives_way_to_another() -> None:
    other = dataclasses.replace(plan(OLD), id="plan-2")
    replaced = progress.replaced_by(plan(NEW), other, "ada@laptop")
    now = progress.superseded("plan-1", replaced)
    assert now.state is PlanState.SUPERSEDED
    assert now.why == "plan-1 was replaced by plan-2, which ada@laptop applied"
    for wanted, same in (((NEW,), True), ((OLD,), False), ((), False), ((NEW, B1), False)):
        assert progress.replaced_by(plan(NEW), plan(*wanted), "").same is same


def test_it_is_not_over_while_a_plan_is_made_and_a_loop_that_breaks_is_why() -> None:
    done, ahead = asked(host()), progress.Ahead
    assert progress.settling(done, ahead(), "").state is PlanState.CONVERGED
    assert progress.settling(done, ahead(planning=True), "").state is PlanState.CONVERGING
    measuring = progress.settling(done, ahead(planning=True, measuring="job-1"), "")
    assert measuring.state is PlanState.CONVERGED, "that may take an hour"
    now = progress.settling(asked(host(), NEW), progress.Ahead(), "the proxy does not answer.")
    assert now.why == "the daemon cannot look after its engines: the proxy does not answer."
    assert progress.settling(asked(host()), progress.Ahead(), "x").why == ""


def test_only_what_happens_changes_the_picture() -> None:
    here = host((NEW, STARTING))
    before = asked(here, NEW)
    here.now += 60
    later = asked(here, NEW)
    assert (later.picture, later.replicas[0].seconds) == (before.picture, 60)
    here.calm_step()
    assert asked(here, NEW).picture != before.picture
