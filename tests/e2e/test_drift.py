"""A user sees drift of a profile that promises too much, with real requests, by command line."""

import concurrent.futures
import dataclasses
from pathlib import Path

import openai
import pytest

from partitiond.core.profile.jobs import JobState, ProfileOptions
from partitiond.core.profile.points import Latency, OperatingPoint
from partitiond.core.profile.record import Profile
from partitiond.core.views.drift import DriftReport
from partitiond.core.views.lists import ReplicaView
from tests.e2e.harness import Fleet, wait_for

pytestmark = pytest.mark.soak
"""What is measured depends on the machine; core and controller decide what drift is."""

BODY = {
    "name": "tiny",
    "weights": "dummy",
    "engine_kind": "simulated",
    "model": "opt-125m",
    "workload": {"prompt_tokens": 16, "output_tokens": 16},
    "min_replicas": 1,
    "max_replicas": 1,
    "auto": False,
    "engine": {"extra_args": ["--token-seconds", "0.01"]},
}
SETTINGS = {
    "daemon.loop_seconds": 0.1,
    "planner.time_limit_seconds": 2.0,
    "engine.cgroup": "none",
    "profiling.min_window_seconds": 0.3,
    "profiling.max_window_seconds": 0.6,
    "profiling.max_batch": 4,
    "profiling.cpu_partition_cores": [1],
    "drift.window_requests": 12,
    "drift.window_seconds": 2.0,
}
TOO_FAST = 2.5
"""The profile promises so much more than was measured: what else loads this machine is less."""


def promised(profile: Profile) -> Profile:
    def faster(value: Latency) -> Latency:
        return Latency(*(getattr(value, n) / TOO_FAST for n in ("mean", "p50", "p95", "p99")))

    def point(p: OperatingPoint) -> OperatingPoint:
        return dataclasses.replace(
            p,
            output_tokens_per_s=p.output_tokens_per_s * TOO_FAST,
            req_per_s=p.req_per_s * TOO_FAST,
            ttft=faster(p.ttft),
            tpot=faster(p.tpot),
        )

    return dataclasses.replace(
        profile, points=tuple(map(point, profile.points)), step_time=None, capacity_trials=()
    )


def ask(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="tiny",
        prompt="Once upon a time there was a profile that was wrong",
        max_tokens=16,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    for _ in stream:
        pass


def serving(fleet: Fleet) -> ReplicaView | None:
    with fleet.client() as client:
        return next((view for view in client.replicas() if view.state == "serving"), None)


def corrected(fleet: Fleet) -> DriftReport | None:
    """Under load, until the figures are corrected."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool, fleet.client() as client:
        list(pool.map(ask, [fleet.openai()] * 40))
        report = client.drift()
    return report if report.corrections else None


def test_a_profile_that_promises_too_much_is_found_out(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, SETTINGS)
    try:
        fleet.start()
        with fleet.client(actor="ada@laptop") as client:
            client.register(BODY)
            job = fleet.finish(client.profile("tiny", ProfileOptions(confirm=False)))
            assert job.state is JobState.SUCCEEDED, job.error
            measured = next(p for p in client.profiles("tiny") if p.kind.value == "measured")
            client.import_profile(promised(measured), replace=True)
            client.apply()
        wait_for("the replica to serve", lambda: serving(fleet))
        report = wait_for("a correction", lambda: corrected(fleet))

        (replica,) = report.replicas
        assert replica.verdict == "slower"
        assert "times what its profile predicts at this load" in replica.words
        (correction,) = report.corrections
        assert correction.profile_id == measured.id
        assert correction.ratio > TOO_FAST / 1.5
        with fleet.client() as client:
            plan = client.plan().plan
            assert {p.candidate.correction for p in plan.placements} == {correction.factor}
            assert any("planned times" in line for line in plan.explanation)
            events = client.events(limit=1000)
            assert {e.actor for e in events if e.kind == "plan-applied"} >= {"ada@laptop"}
            assert {e.actor for e in events if e.kind in ("drift", "figures-corrected")} == {""}
            assert client.ledger(model="tiny")
            # It takes no part in the chain, so nothing is measured by itself.
            assert "by hand" in client.drift().remeasures[0].words
            client.lift_correction(correction.profile_id)
            assert client.drift().corrections == ()
    finally:
        fleet.cleanup()
