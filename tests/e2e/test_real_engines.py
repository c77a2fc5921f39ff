"""The whole main job works with two real vLLM engines, and its parts are killed.

One fleet runs through all tests, in the order of a fleet's life, because an engine takes most of a
minute to start: registered, measured, planned, applied, called, harmed, shut down.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from partitiond.core.plan.record import Status
from partitiond.core.profile.jobs import JobState, ProfileOptions
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import MIB
from tests.e2e.harness import Fleet, Load, wait_for
from tests.machine import in_time

pytestmark = pytest.mark.engine

REAL, DUMMY = "smollm2-135m", "opt-125m"
START_SECONDS = 100.0
"""Far beyond what an engine takes here, so that only a hang fails."""


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
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), overrides)
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.cleanup()


def engines_started(fleet: Fleet) -> int:
    with fleet.client() as client:
        return sum(view.starts for view in client.replicas())


def test_two_models_are_registered_planned_and_served(fleet: Fleet) -> None:
    """One is measured first, the other one planned from its estimate."""
    for name, weights in ((REAL, "real"), (DUMMY, "dummy")):
        with fleet.client() as client:
            client.register(
                {
                    "model": name,
                    "weights": weights,
                    "workload": {"prompt_tokens": 32, "output_tokens": 16},
                    "auto": False,
                    "min_replicas": 1,
                    "max_replicas": 1,
                }
            )
    with fleet.client() as client:
        job = client.profile(REAL, ProfileOptions(cores=1))
    done = fleet.finish(job, seconds=START_SECONDS)
    assert done.state is JobState.SUCCEEDED, done.error
    assert done.result is not None
    with fleet.client() as client:
        profile = client.profile_by_id(done.result)
    assert profile.kind is ProfileKind.MEASURED
    assert profile.provenance.weights == "real"
    assert [point.batch for point in profile.points][:1] == [1]
    assert all(point.output_tokens_per_s > 0 for point in profile.points)
    assert profile.footprint.peak_bytes > 500 * MIB

    with fleet.client() as client:
        preview = client.plan()
        assert preview.infeasible is None
        assert not preview.plan.unplaced
        assert preview.plan.certificate.status in {Status.OPTIMAL, Status.FEASIBLE}
        assert {p.model for p in preview.plan.placements} == {REAL, DUMMY}
        client.apply(preview.plan.id)
    views = fleet.serving(2, seconds=2 * START_SECONDS)
    for view in views:
        assert view.pid is not None
        with fleet.client() as client:
            plan = client.current_plan()
        assert plan is not None
        placement = next(p for p in plan.placements if p.replica_id == view.replica_id)
        cores = set(getattr(placement.partition, "cores", ()))
        assert len(cores) == 1
        members = [p for p in fleet.processes() if os.getsid(p) == os.getsid(view.pid)]
        assert len(members) >= 2, "an engine is at least its shim and vLLM"
        for member in members:
            assert os.sched_getaffinity(member) == cores, "a process is outside its partition"


def test_the_openai_client_gets_answers(fleet: Fleet) -> None:
    client = fleet.openai()
    assert {model.id for model in client.models.list()} == {REAL, DUMMY}
    chat = client.chat.completions.create(
        model=REAL,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=24,
        temperature=0,
    )
    told = client.completions.create(
        model=REAL, prompt="The capital of France is", max_tokens=24, temperature=0
    )
    # Of so small a model a rounding, which differs with its cores, turns one answer or the other.
    answers = f"{chat.choices[0].message.content} {told.choices[0].text}"
    assert "Paris" in answers, "a real model knows this"
    for model in (REAL, DUMMY):
        whole = client.completions.create(model=model, prompt="The sky is", max_tokens=8)
        assert whole.usage is not None
        assert whole.usage.completion_tokens <= 8
        parts = list(
            client.completions.create(
                model=model,
                prompt="The sky is",
                max_tokens=8,
                stream=True,
                temperature=0,
                extra_body={"ignore_eos": True},
            )
        )
        assert len(parts) >= 8
        assert parts[-1].choices[0].finish_reason == "length"


def test_errors_and_cancellation_reach_the_openai_client(fleet: Fleet) -> None:
    client = fleet.openai()
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-17", prompt="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=REAL, prompt="x", max_tokens=1_000_000)
    stream = client.completions.create(
        model=REAL, prompt="x", max_tokens=60, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()

    def idle() -> bool:
        with fleet.client() as control:
            return all(view.in_flight == 0 for view in control.replicas())

    wait_for("the cancelled request to leave its replica", idle, seconds=10)


def test_a_killed_engine_comes_back_and_others_are_unharmed(fleet: Fleet) -> None:
    with fleet.client() as client:
        victim = next(v for v in client.replicas() if v.model == DUMMY)
    load = Load(fleet.base_url, {REAL: 2, DUMMY: 3}, tokens=48)
    with load.running():
        wait_for("streams on both", lambda: len(load.of(REAL)) and len(load.of(DUMMY)), seconds=90)
        engine = fleet.process_with("api_server", f"/{DUMMY}")
        under_way = wait_for(
            "a stream under way", lambda: load.streaming(DUMMY), seconds=90, pause=0.01
        )
        os.kill(engine, signal.SIGKILL)

        def back() -> bool:
            with fleet.client() as client:
                view = next(v for v in client.replicas() if v.model == DUMMY)
            return view.state == "serving" and view.pid != victim.pid

        wait_for("the engine to come back", back, seconds=START_SECONDS, pause=0.3)
        again = time.monotonic()
        wait_for(
            "a stream of the new engine",
            lambda: any(o.ended == "done" and o.started > again for o in load.of(DUMMY)),
            seconds=60,
        )
    assert all(o.ended == "done" for o in load.of(REAL)), [
        o for o in load.of(REAL) if o.ended != "done"
    ]
    for outcome in under_way:  # one that was nearly done may have had all its tokens on the way
        assert outcome.ended == "error-event", outcome
    assert not [o for o in load.outcomes if o.ended == "broken"]


def test_a_killed_daemon_breaks_no_stream_and_adopts_all(fleet: Fleet) -> None:
    starts = engines_started(fleet)
    with fleet.client() as client:
        before = {view.replica_id: view.pid for view in client.replicas()}
    proxy = fleet.process_with("partitiond.proxy")
    load = Load(fleet.base_url, {REAL: 2, DUMMY: 2}, tokens=32)
    with load.running():
        wait_for("streams on both", lambda: len(load.of(REAL)) and len(load.of(DUMMY)), seconds=90)
        fleet.kill_daemon()
        killed = time.monotonic()
        wait_for(
            "new requests while no daemon runs",
            lambda: sum(o.started > killed for o in load.outcomes) >= 4,
            seconds=90,
        )
        fleet.start()
        fleet.serving(2, seconds=60)
        adopted = time.monotonic()
        wait_for(
            "requests after the adoption",
            lambda: any(o.started > adopted for o in load.outcomes),
            seconds=60,
        )
    assert [o for o in load.outcomes if o.ended != "done"] == []
    with fleet.client() as client:
        views = client.replicas()
        plan = client.current_plan()
    assert {view.replica_id: view.pid for view in views} == before, "an engine was started anew"
    assert all(view.adopted for view in views)
    assert fleet.process_with("partitiond.proxy") == proxy
    assert engines_started(fleet) <= starts
    assert plan is not None
    assert {p.replica_id for p in plan.placements} == set(before), "store and host disagree"


def test_a_killed_proxy_is_back_within_two_seconds(fleet: Fleet) -> None:
    with fleet.client() as client:
        before = {view.replica_id: view.pid for view in client.replicas()}
    times = []
    for _ in range(3):
        os.kill(fleet.process_with("partitiond.proxy"), signal.SIGKILL)
        killed = time.monotonic()

        def answers() -> bool:
            try:
                return bool(fleet.openai().models.list().data)
            except openai.APIConnectionError:
                return False

        wait_for("the proxy", answers, seconds=20, pause=0.02)
        times.append(time.monotonic() - killed)
    assert in_time(sorted(times)[1], 2.0, starts=4), times
    assert fleet.openai().completions.create(model=REAL, prompt="x", max_tokens=2).choices
    with fleet.client() as client:
        assert {view.replica_id: view.pid for view in client.replicas()} == before


def test_a_clean_shutdown_leaves_nothing(fleet: Fleet) -> None:
    assert fleet.terminate() == 0
    assert fleet.processes() == []
    left = [path for path in fleet.run_dir.rglob("*") if path.is_socket()]
    assert left == []
    assert not list(fleet.run_dir.rglob("tmp*")), "temporary files are left"
    state = {path.name for path in Path(fleet.settings.state_dir).iterdir()}
    assert "partitiond.sqlite3-wal" not in state, "the store was not closed"
