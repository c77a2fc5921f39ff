"""Every command that waits for a plan ends when it should, against a real daemon.

A command ends when its message is true; after any other event it ends, too, and names the event.
"""

import json
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from partitiond.core.replica.convergence import Convergence, PlanState
from partitiond.core.replica.observation import HOPELESS_FAILURES
from partitiond.core.views.lists import ReplicaView
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.e2e.harness import Command
from tests.e2e.test_simulated_gpus import GpuFleet
from tests.machine import signal_all, wait_for

pytestmark = pytest.mark.full

FOUR = HostDescription("four", (GpuDescription("a100-80gb", 4),), cores=64)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuFleet]:
    folder = tmp_path_factory.mktemp("fleet")
    host = SimulatedHost.create(FOUR, folder / "host")
    host.mps_control.unlink()  # memory shares: no MPS daemon to wait for
    with GpuFleet(folder / "fleet", host) as made:
        made.start()
        yield made


def ended(fleet: GpuFleet, *arguments: str, code: int = 0) -> Command:
    """A command that ends with this exit status."""
    return fleet.cli(*arguments, code=code)


def applied(fleet: GpuFleet) -> None:
    """Apply a fresh plan. Once the command ends, just that plan runs."""
    done = ended(fleet, "apply", "--json")
    requires_plan(fleet)
    assert "serve" in done.stderr
    assert json.loads(done.stdout)["plan"]


def processes(fleet: GpuFleet) -> dict[str, int | None]:
    """Process by replica."""
    return {view.replica_id: view.pid for view in fleet.views()}


def requires_plan(fleet: GpuFleet) -> None:
    """Nothing but what the applied plan wants runs, and all of that."""
    with fleet.client() as client:
        views, plan = client.replicas(), client.current_plan()
    assert plan is not None
    running = sorted((v.model, v.state, v.device_id, v.memory_bytes, v.limit) for v in views)
    assert running == sorted(
        (p.model, "serving", p.device_id, p.partition.memory_bytes, p.candidate.batch)
        for p in plan.placements
    )


def convergence(fleet: GpuFleet) -> Convergence:
    with fleet.client() as client:
        return client.convergence()


def serving(fleet: GpuFleet, model: str) -> list[ReplicaView]:
    return [view for view in fleet.views() if (view.model, view.state) == (model, "serving")]


def change(fleet: GpuFleet, **changes: object) -> None:
    with fleet.client() as client:
        client.update("a", changes)


def remove(fleet: GpuFleet, model: str) -> None:
    with fleet.client() as client:
        client.remove(model)


def waiting(fleet: GpuFleet) -> "subprocess.Popen[str]":
    """An apply that waits."""
    command = fleet.begin_cli("apply")
    assert command.stderr is not None
    assert any(" serve: " in line for line in command.stderr), "it ended without having waited"
    return command


def started(fleet: GpuFleet, model: str, *before: int) -> int:
    """The process of a model's engine that does not serve yet; another one than those before."""

    def found() -> int | None:
        pids = [v.pid for v in fleet.views() if (v.model, v.state) == (model, "starting")]
        return next((pid for pid in pids if pid and pid not in before), None)

    return wait_for(f"an engine of {model} to start", found)


def test_apply_ends_when_just_the_plan_runs_whatever_the_change(fleet: GpuFleet) -> None:
    """Demand, workload, cordon; a model that is added, removed.

    Counted in processes: a plan that moves nothing may be applied by the daemon before we ask.
    """
    fleet.register("a", 2)
    applied(fleet)
    two = processes(fleet)
    assert len(two) == 2

    change(fleet, min_replicas=3, max_replicas=3)
    applied(fleet)
    three = processes(fleet)
    assert len(three) == 3
    assert two.items() <= three.items(), "what ran runs on"

    change(fleet, workload={"prompt_tokens": 1024, "output_tokens": 32})
    applied(fleet)
    assert not set(three.values()) & set(processes(fleet).values()), "other engines, same names"

    device = serving(fleet, "a")[0].device_id
    with fleet.client() as client:
        client.cordon(device, "its fan is replaced")
    applied(fleet)
    assert device not in {view.device_id for view in fleet.views()}
    with fleet.client() as client:
        client.uncordon(device)

    before = processes(fleet)
    fleet.register("b", 1)
    applied(fleet)
    with_b = processes(fleet)
    assert before.items() <= with_b.items()
    assert [view.model for view in fleet.views()].count("b") == 1

    remove(fleet, "b")
    applied(fleet)
    assert processes(fleet) == before


def test_a_version_is_waited_for_and_so_are_both_ways_back(fleet: GpuFleet) -> None:
    """Replaced, rolled back as asked, and back by itself because it does not come."""
    fleet.register("c", 1)
    applied(fleet)
    before = serving(fleet, "c")

    changed = ended(fleet, "models", "update", "c", "--dtype", "float16")
    requires_plan(fleet)
    after = serving(fleet, "c")
    assert {v.pid for v in after} != {v.pid for v in before}
    assert "serve" in changed.stderr

    ended(fleet, "models", "rollback", "c")
    requires_plan(fleet)
    assert {v.pid for v in serving(fleet, "c")} != {v.pid for v in after}

    broken = ("--engine-arg", "--fail-start", "--engine-arg", "no-luck")
    said = ended(fleet, "models", "update", "c", *broken, code=6).stderr
    assert "failed to come 3 times" in said
    assert "exit code 1" in said
    assert len(serving(fleet, "c")) == 1
    remove(fleet, "c")


def test_a_model_that_cannot_start_is_named_once_all_others_serve(fleet: GpuFleet) -> None:
    fleet.register("good", 1, engine={"extra_args": ["--load-seconds", "2"]})
    fleet.register("bad", 1, engine={"extra_args": ["--fail-start", "no-luck"]})
    try:
        said = ended(fleet, "apply", code=6).stderr
        found = re.search(
            r"bad-1 failed (\d+) times in a row: it exited with exit code 1: no-luck.", said
        )
        assert found is not None, said
        assert int(found[1]) >= HOPELESS_FAILURES, "a slow machine may see one more"
        assert len(serving(fleet, "good")) == 1
    finally:
        remove(fleet, "bad")


def test_a_wait_ends_with_its_event_and_leaves_the_fleet_alone(fleet: GpuFleet) -> None:
    """Four waits for a model whose engine does not get on: it dies, and the command waits on; then
    it is interrupted, its plan replaced, and the daemon killed.
    """
    fleet.register("d", 1, engine={"extra_args": ["--load-seconds", "3600"]})
    command = waiting(fleet)
    try:
        engine = started(fleet, "d")
        signal_all([engine])
        started(fleet, "d", engine)
        assert command.poll() is None

        command.send_signal(signal.SIGINT)
        _, said = command.communicate()
        now = convergence(fleet)
        assert command.returncode == 130, said
        assert now.state is PlanState.CONVERGING
        assert f"goes on with {now.plan_id}" in said

        command, before = waiting(fleet), convergence(fleet).plan_id
        change(fleet, min_replicas=1, max_replicas=1)
        ended(fleet, "apply", "--no-wait")
        after = convergence(fleet).plan_id
        _, said = command.communicate()
        assert command.returncode == 4, said
        assert f"{before} was replaced by {after}" in said

        command = waiting(fleet)
        plan_id = convergence(fleet).plan_id
        fleet.kill_daemon()
        _, said = command.communicate()
        fleet.start()
        assert command.returncode == 5, said
        assert f"the daemon is gone while {plan_id} was on its way" in said
    finally:
        remove(fleet, "d")
        command.kill()
        command.communicate()
    victim = serving(fleet, "a")[0].pid
    assert victim is not None
    signal_all([victim])
    wait_for("its death to be seen", lambda: victim not in processes(fleet).values())
    applied(fleet)
