"""A fleet of simulated engines with real processes converges after random harm, from stated seeds.

Two replicas of one model and one of another serve streams while engines, shims, the proxy and the
daemon are killed or frozen in random order. After each fault the fleet must converge to the
requested state, with nothing started twice; at the end nothing may be left.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partitiond.core.plan.record import Objective
from partitiond.core.profile.jobs import ProfileOptions
from partitiond.core.views.lists import ReplicaView
from tests.e2e.harness import Fleet, Load, wait_for

pytestmark = pytest.mark.full

TWIN, SINGLE = "twin", "single"
BLOWS = 8
CONVERGE_SECONDS = 60.0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    cores = sorted(os.sched_getaffinity(0))
    found = Fleet(
        tmp_path,
        {
            "cpu.cores": cores[:2],
            "planner.objective": Objective.MAX_GOODPUT.value,
            "profiling.cpu_partition_cores": [1],
            "profiling.max_batch": 4,
            "profiling.time_limit_seconds": 8,
            "profiling.min_window_seconds": 0.5,
            "profiling.max_window_seconds": 1,
        },
    )
    try:
        yield found
    finally:
        found.cleanup()


def register(fleet: Fleet, name: str, replicas: int) -> None:
    with fleet.client() as client:
        client.register(
            {
                "name": name,
                "model": "opt-125m",
                "weights": "dummy",
                "engine_kind": "simulated",
                "workload": {"prompt_tokens": 16, "output_tokens": 16},
                "min_replicas": replicas,
                "max_replicas": replicas,
                "auto": False,
            }
        )
        job = client.profile(name, ProfileOptions(cores=1))
    assert fleet.finish(job, seconds=60).result


def views(fleet: Fleet) -> list[ReplicaView]:
    with fleet.client() as client:
        return list(client.replicas())


def kill_engine(fleet: Fleet, rng: random.Random) -> None:
    """The engine itself dies; its shim sees it."""
    _strike(fleet, rng, signal.SIGKILL, leader=False)


def kill_shim(fleet: Fleet, rng: random.Random) -> None:
    """The shim dies, and the engine with it."""
    _strike(fleet, rng, signal.SIGKILL, leader=True)


def kill_proxy(fleet: Fleet, _rng: random.Random) -> None:
    os.kill(fleet.process_with("partitiond.proxy"), signal.SIGKILL)


def kill_daemon(fleet: Fleet, rng: random.Random) -> None:
    """And sometimes an engine while no daemon is there to see it."""
    fleet.kill_daemon()
    if rng.random() < 0.5:
        with contextlib.suppress(AssertionError):
            os.kill(fleet.process_with("partitiond.simulated.engine"), signal.SIGKILL)
    fleet.start()


def _strike(fleet: Fleet, rng: random.Random, number: int, *, leader: bool) -> None:
    view = rng.choice([v for v in views(fleet) if v.pid is not None])
    assert view.pid is not None
    session = os.getsid(view.pid)
    members = [p for p in fleet.processes() if os.getsid(p) == session and p != view.pid]
    with contextlib.suppress(ProcessLookupError):
        os.kill(view.pid if leader else rng.choice(members), number)


HARM: tuple[Callable[[Fleet, random.Random], None], ...] = (
    kill_engine,
    kill_shim,
    kill_proxy,
    kill_daemon,
)


def engines_alive(fleet: Fleet) -> int:
    """Engine processes, counted on the host and not asked of the daemon."""
    count = 0
    for pid in fleet.processes():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            count += b"partitiond.simulated.engine" in words and b"-m" in words
    return count


def started_engines(fleet: Fleet, wanted: int) -> None:
    wait_for("each engine once", lambda: engines_alive(fleet) == wanted, seconds=CONVERGE_SECONDS)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_fleet_survives_random_harm(fleet: Fleet, seed: int) -> None:
    rng = random.Random(seed)
    fleet.start()
    register(fleet, TWIN, 1)
    register(fleet, SINGLE, 1)
    with fleet.client() as client:
        client.apply(client.plan().plan.id)
    wanted = len(fleet.serving(2, seconds=CONVERGE_SECONDS))
    load = Load(fleet.base_url, {TWIN: 3, SINGLE: 3}, tokens=16)
    with load.running():
        for _ in range(BLOWS):
            blow = rng.choice(HARM)
            blow(fleet, rng)
            fleet.serving(wanted, seconds=CONVERGE_SECONDS)
            settled = time.monotonic()
            for model in (TWIN, SINGLE):

                def served(model: str = model, after: float = settled) -> bool:
                    return any(o.ended == "done" and o.started > after for o in load.of(model))

                wait_for(f"{model} after {blow.__name__}", served, seconds=CONVERGE_SECONDS)
            started_engines(fleet, wanted)
    # A dead proxy breaks its streams; a dead engine ends them with an error event.
    ends = {outcome.ended for outcome in load.outcomes}
    assert ends <= {"done", "error-event", "refused", "broken"}
    good = sum(outcome.ended == "done" for outcome in load.outcomes)
    assert good > len(load.outcomes) / 2
    assert fleet.terminate() == 0
    assert fleet.processes() == []


def test_streams_of_the_other_model_never_notice(fleet: Fleet) -> None:
    """Four kills of one model's engine: the other model's streams all end as they should."""
    fleet.start()
    register(fleet, TWIN, 1)
    register(fleet, SINGLE, 1)
    with fleet.client() as client:
        client.apply(client.plan().plan.id)
    fleet.serving(2, seconds=CONVERGE_SECONDS)
    load = Load(fleet.base_url, {TWIN: 4, SINGLE: 4}, tokens=16)
    with load.running():
        for _ in range(4):
            view = next(v for v in views(fleet) if v.model == TWIN and v.pid is not None)
            assert view.pid is not None
            os.kill(view.pid, signal.SIGKILL)

            def back(old: int = view.pid) -> bool:
                now = next(v for v in views(fleet) if v.model == TWIN)
                return now.state == "serving" and now.pid != old

            wait_for("the engine to come back", back, seconds=120)
    assert load.of(SINGLE)
    assert [o for o in load.of(SINGLE) if o.ended != "done"] == []
    assert [o for o in load.of(TWIN) if o.ended == "broken"] == []
