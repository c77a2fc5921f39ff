"""A wait for a plan ends with what happened to it, and names that."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from rich.console import Console

from partitiond.cli.waiting import wait_for_change, wait_for_plan
from partitiond.core.errors import ConflictError, DaemonUnreachableError, StartFailedError
from partitiond.core.events import Event, EventFilter
from partitiond.core.replica.convergence import (
    Cause,
    Convergence,
    PlanState,
    Replaced,
    ReplicaProgress,
    Standing,
)
from tests.cli.conftest import Cli, ServedApi
from tests.controller.host import Host
from tests.controller.samples import NOW

COMES = ReplicaProgress("a-1", "a", "cpu", Standing.STARTING, "starts")
FAILED = dataclasses.replace(COMES, standing=Standing.FAILED, why="broke.", cause=Cause.ENGINE)
FIRST = Convergence("plan-1", PlanState.CONVERGING, 1, 0, 0, 0.5, "a-1 starts", (COMES,))
SERVES = Convergence("plan-1", PlanState.CONVERGED, 1, 1, 0, 1.0, "")
BROKE = dataclasses.replace(FIRST, state=PlanState.FAILED, replicas=(FAILED,))


def replaced(**by: Any) -> Convergence:
    now = Replaced("plan-2", **by)
    return dataclasses.replace(FIRST, state=PlanState.SUPERSEDED, why="it gave way", replaced=now)


class Daemon:
    """Tells these steps of its plans, one after the other; an error is raised in its turn."""

    def __init__(self, *steps: Convergence | BaseException, rolls_back: str = "") -> None:
        self.watched: list[str | None] = []
        self._steps = iter(steps)
        self._events = [Event(1, NOW, "model-rolled-back", rolls_back, "it went back.")]

    def watch_convergence(self, plan_id: str | None) -> Iterator[Convergence]:
        self.watched.append(plan_id)
        for step in self._steps:
            if isinstance(step, BaseException):
                raise step
            yield step
            if step.state is not PlanState.CONVERGING:
                return

    def events(self, *, after: int, wanted: EventFilter) -> Sequence[object]:
        return [one for one in self._events if one.id > after and one.kind in wanted.kinds]

    def models(self) -> list[object]:
        return []


def waited(daemon: Daemon, before: Convergence | None = None) -> str:
    """What is told on the way to the end."""
    console = Console(file=io.StringIO(), width=80)
    if before is None:
        wait_for_plan(daemon, "plan-1", console)  # type: ignore[arg-type]  # as much as it asks
    else:
        wait_for_change(daemon, before, console)  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
        (DaemonUnreachableError("no."), DaemonUnreachableError, "gone while plan-1 was on its way"),
        (replaced(actor="ada@laptop"), ConflictError, "it gave way, before all of it ran"),
        (BROKE, StartFailedError, "0 of 1 replicas serve. a-1 broke."),
    ],
)
def test_a_wait_ends_with_its_event(
    end: Convergence | BaseException,
    kind: type[BaseException],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(kind, match=words):
        waited(Daemon(FIRST, end))
    told = "goes on with plan-1: `partitiond apply plan-1`" in capsys.readouterr().err
    assert told is (kind is KeyboardInterrupt)


@pytest.mark.parametrize("by", [{}, {"actor": "ada@laptop", "same": True}])
def test_it_goes_on_with_a_plan_of_the_daemon_or_of_the_same_engines(by: dict[str, Any]) -> None:
    daemon = Daemon(FIRST, replaced(**by), dataclasses.replace(SERVES, plan_id="plan-2"))
    assert "this waits for plan-2 now" in waited(daemon)
    assert daemon.watched == ["plan-1", "plan-2"]


def test_a_version_that_went_back_by_itself_is_an_error_and_one_of_others_is_none() -> None:
    waited(Daemon(FIRST, SERVES, rolls_back="b"), SERVES)
    with pytest.raises(StartFailedError, match="a: it went back"):
        waited(Daemon(FIRST, SERVES, rolls_back="a"), SERVES)


def test_what_failed_before_a_change_is_no_fault_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    other = dataclasses.replace(FAILED, replica_id="b-1", model="b")
    before = dataclasses.replace(BROKE, plan_id="plan-0", replicas=(other,))
    waited(Daemon(dataclasses.replace(BROKE, serving=1, wanted=2, replicas=(other,))), before)
    assert "1 of 2 replicas serve (plan-1). As before: b-1 broke." in capsys.readouterr().err
    with pytest.raises(StartFailedError, match="a-1 broke"):
        waited(Daemon(FIRST, BROKE), before)


def test_apply_waits_until_all_serve(served: ServedApi, started: Host, cli: Cli) -> None:
    started.measured("a")
    served.run(started.register("a", auto=False, max_replicas=1))
    cli("apply").ended(0)
    assert started.serving("a") == 1


def test_the_status_names_a_plan_that_waits_for_a_person(served: ServedApi, cli: Cli) -> None:
    plans = served.host.service.plans
    plans.chain.waiting = waits = served.run(plans.preview()).plan.id
    cli("status").ended(0, f"partitiond apply {waits}")
    assert cli("status --json").json["waiting_plan_id"] == waits
