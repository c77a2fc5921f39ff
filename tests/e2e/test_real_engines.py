"""The whole main job works with a real vLLM, and its parts are killed.

One fleet runs through all tests, in the order of a fleet's life, because an engine takes most of a
minute to start: registered, planned, applied, called; then harmed, measured, shut down.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import openai
import pytest

from partitiond.core.plan.record import Status
from partitiond.core.profile.jobs import JobState, ProfileOptions
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import MIB
from tests.e2e.harness import Fleet, Load, Outcome
from tests.machine import wait_for

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

REAL, DUMMY = "smollm2-135m", "opt-125m"
START_SECONDS = 200.0
"""Several times what an engine's start takes here, and that four times: only a hang fails."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    overrides: dict[str, object] = {
        "cpu.cores": sorted(os.sched_getaffinity(0))[:2],
        # Small trials: these tests are about the chain, the profiler has its own.
        "profiling.cpu_partition_cores": [1],
        "profiling.max_batch": 4,
        "profiling.time_limit_seconds": 25,
        "profiling.min_window_seconds": 2,
        "profiling.max_window_seconds": 4,
        # One engine starts while the other serves, on two cores: a slow answer is no harm.
        "proxy.max_wait_seconds": 240,
    }
    if "PARTITIOND_TEST_ENGINE_PYTHON" in os.environ:
        overrides["engine.python"] = os.environ["PARTITIOND_TEST_ENGINE_PYTHON"]
    with Fleet(tmp_path_factory.mktemp("fleet"), overrides) as fleet:
        fleet.start()
        yield fleet


def serves(fleet: Fleet, *models: str) -> dict[str, int | None]:
    """The process of each replica, once a plan from estimates has these models served."""
    with fleet.client() as client:
        known = {view.record.spec.name for view in client.models()}
        for name in sorted(set(models) - known):
            client.register(
                {
                    "model": name,
                    "weights": "real" if name == REAL else "dummy",
                    "workload": {"prompt_tokens": 32, "output_tokens": 16},
                    "auto": False,
                    "min_replicas": 1,
                    "max_replicas": 1,
                }
            )
        if set(models) - known:
            preview = client.plan()
            assert preview.infeasible is None
            assert not preview.plan.unplaced
            assert preview.plan.certificate.status in {Status.OPTIMAL, Status.FEASIBLE}
            client.apply(preview.plan.id)
    return {
        view.replica_id: view.pid
        for view in fleet.serving(len(known | set(models)), seconds=START_SECONDS)
    }


def requires_partitions(fleet: Fleet) -> None:
    """Every process of every engine is on the core that the plan gave it."""
    with fleet.client() as client:
        views, plan = client.replicas(), client.current_plan()
    assert plan is not None
    for view in views:
        assert view.pid is not None
        placement = next(p for p in plan.placements if p.replica_id == view.replica_id)
        cores = set(getattr(placement.partition, "cores", ()))
        assert len(cores) == 1
        members = [p for p in fleet.processes() if os.getsid(p) == os.getsid(view.pid)]
        assert len(members) >= 2, "an engine is at least its shim and vLLM"
        for member in members:
            assert os.sched_getaffinity(member) == cores, "a process is outside its partition"


def test_a_model_is_registered_planned_applied_and_streams_to_the_openai_client(
    fleet: Fleet,
) -> None:
    """The whole path once; which words a model says depends on how this CPU rounds."""
    serves(fleet, REAL)
    requires_partitions(fleet)
    client = fleet.openai()
    assert [model.id for model in client.models.list()] == [REAL]
    chat = client.chat.completions.create(
        model=REAL,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=24,
    )
    assert chat.choices[0].message.content
    assert chat.usage is not None
    assert 0 < chat.usage.completion_tokens <= 24
    stream = client.completions.create(
        model=REAL, prompt="The sky is", max_tokens=8, stream=True, temperature=0,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    parts = list(stream)
    assert sum(bool(part.choices[0].text) for part in parts) >= 4
    assert parts[-1].choices[0].finish_reason == "length"

    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-17", prompt="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=REAL, prompt="x", max_tokens=1_000_000)
    cancelled = client.completions.create(
        model=REAL, prompt="x", max_tokens=200, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(cancelled))
    cancelled.close()

    def idle() -> bool:
        with fleet.client() as control:
            return all(view.in_flight == 0 for view in control.replicas())

    wait_for("the cancelled request to leave its replica", idle)


@pytest.mark.full
def test_a_killed_daemon_breaks_no_stream_and_adopts_all(fleet: Fleet) -> None:
    before = serves(fleet, REAL)
    proxy = fleet.process_with("partitiond.proxy")
    load = Load(fleet.base_url, {REAL: 3}, tokens=32)
    with load.running():
        wait_for("streams", lambda: load.of(REAL))
        fleet.kill_daemon()
        killed = len(load.outcomes)
        wait_for("answers while no daemon runs", lambda: len(load.outcomes) >= killed + 6)
        fleet.start()
        assert serves(fleet, REAL) == before, "an engine was started anew"
        adopted = len(load.outcomes)
        wait_for("answers after the adoption", lambda: len(load.outcomes) >= adopted + 6)
    assert [o for o in load.outcomes if o.ended != "done"] == []
    with fleet.client() as client:
        views, plan = client.replicas(), client.current_plan()
    assert all(view.adopted for view in views)
    assert fleet.process_with("partitiond.proxy") == proxy
    assert plan is not None
    assert {p.replica_id for p in plan.placements} == set(before), "store and host disagree"


def killed_under_load(fleet: Fleet, load: Load, model: str) -> list[Outcome]:
    """Kill the engine of a model; the streams that it had begun, none of which was nearly done.

    It is stopped first: what is under way then stays so.
    """
    engine = fleet.process_with("api_server", model)
    while True:
        wait_for("a stream under way", lambda: load.streaming(model))
        os.kill(engine, signal.SIGSTOP)
        if under_way := load.streaming(model):
            os.kill(engine, signal.SIGKILL)
            return under_way
        os.kill(engine, signal.SIGCONT)


def is_back(fleet: Fleet, model: str, victim: int | None) -> bool:
    with fleet.client() as client:
        view = next(v for v in client.replicas() if v.model == model)
    return view.state == "serving" and view.pid != victim


def ends(outcomes: Sequence[Outcome]) -> set[str]:
    return {outcome.ended for outcome in outcomes}


@pytest.mark.soak
def test_of_two_engines_one_is_measured_and_the_other_killed_and_neither_harms_the_other(
    fleet: Fleet,
) -> None:
    serves(fleet, REAL)
    with fleet.client() as client:
        client.apply(client.plan().plan.id)
        job = client.profile(REAL, ProfileOptions(cores=1))
    done = fleet.finish(job, seconds=START_SECONDS)
    assert done.state is JobState.SUCCEEDED, done.error
    assert done.result is not None
    with fleet.client() as client:
        profile = client.profile_by_id(done.result)
    assert (profile.kind, profile.provenance.weights) == (ProfileKind.MEASURED, "real")
    assert profile.points[0].batch == 1
    assert all(point.output_tokens_per_s > 0 for point in profile.points)
    assert profile.footprint.peak_bytes > 500 * MIB
    serves(fleet, REAL, DUMMY)
    requires_partitions(fleet)
    with fleet.client() as client:
        victim = next(v.pid for v in client.replicas() if v.model == DUMMY)
    load = Load(fleet.base_url, {REAL: 2, DUMMY: 3}, tokens=200)
    with load.running():
        under_way = killed_under_load(fleet, load, DUMMY)
        wait_for(
            "the engine to come back", lambda: is_back(fleet, DUMMY, victim), seconds=START_SECONDS
        )
    assert ends(under_way) == {"error-event"}
    assert ends(load.of(REAL)) <= {"done"}


@pytest.mark.full
def test_a_clean_shutdown_leaves_nothing(fleet: Fleet) -> None:
    serves(fleet, REAL)
    assert fleet.terminate() == 0
    assert fleet.processes() == []
    left = [path for path in fleet.run_dir.rglob("*") if path.is_socket()]
    assert left == []
    assert not list(fleet.run_dir.rglob("tmp*")), "temporary files are left"
    state = {path.name for path in Path(fleet.settings.state_dir).iterdir()}
    assert "partitiond.sqlite3-wal" not in state, "the store was not closed"
