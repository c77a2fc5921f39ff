"""The drift desk in a control plane whose engines are as slow as the test says."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest

from partitiond.controller.drift import DriftDesk
from partitiond.core.errors import NotFoundError
from partitiond.core.partition import CpuCores
from partitiond.core.spec import Demand
from partitiond.core.traffic import ReplicaCount, TrafficSample
from partitiond.core.units import GIB, Bytes
from partitiond.ports import Job, JobState
from partitiond.ports.drift import ReplicaDrift
from partitiond.store import open_store
from tests.controller.fakes import until
from tests.controller.samples import spec
from tests.controller.test_service import Host

LOOK_SECONDS = 2.0
BATCH = 2.0
PACE = 0.010
"""Of one core at two sequences, by the profile that the fake profiler makes: 2 / 200 tokens/s."""


class Traffic:
    """Counts of engines that serve two requests at a time, looked at every two seconds."""

    def __init__(self, desk: DriftDesk) -> None:
        self.desk = desk
        self.at = 0.0
        self.counts: dict[str, ReplicaCount] = {}
        self.epoch = "one"

    def flow(self, looks: int, slower: dict[str, float], **lengths: float) -> None:
        """So many looks; each engine takes so many times what its profile says."""
        for _ in range(looks):
            self.at += LOOK_SECONDS
            for name, factor in slower.items():
                old = self.counts.get(name, ReplicaCount("a", "g1"))
                self.counts[name] = _later(old, factor, **lengths)
            self.desk.looked(TrafficSample(self.at, self.epoch, replicas=dict(self.counts)))


def _later(
    old: ReplicaCount, slower: float, prompt: float = 64.0, output: float = 32.0
) -> ReplicaCount:
    sequence_seconds = BATCH * LOOK_SECONDS
    tokens = sequence_seconds / (PACE * slower)
    ended = round(tokens / output)
    return dataclasses.replace(
        old,
        ok=old.ok + ended,
        prompt_tokens=old.prompt_tokens + round(ended * prompt),
        output_tokens=old.output_tokens + round(ended * output),
        service_seconds=old.service_seconds + ended * output * PACE * slower,
        first_seconds=old.first_seconds + ended * 0.1 * slower,
        first_count=old.first_count + ended,
        rest_seconds=old.rest_seconds + ended * (output - 1) * PACE * slower,
        rest_tokens=old.rest_tokens + round(ended * (output - 1)),
        sequence_seconds=old.sequence_seconds + sequence_seconds,
        busy_seconds=old.busy_seconds + LOOK_SECONDS,
    )


def desk_of(host: Host) -> DriftDesk:
    assert isinstance(host.service.drift, DriftDesk)
    return host.service.drift


@contextlib.asynccontextmanager
async def serving(count: int) -> AsyncIterator[Host]:
    store = open_store(":memory:")
    host = Host(store, cores=count + 1)
    await host.service.start()
    await host.service.register(spec("a", demand=Demand(1.0), min_replicas=count))
    await host.serves("a")
    await until(lambda: not open_jobs(host))
    yield host
    await host.service.shutdown(stop_engines=True)
    store.close()


def open_jobs(host: Host) -> list[Job]:
    live = (JobState.QUEUED, JobState.RUNNING)
    return [job for job in host.service.jobs() if job.state in live]


def replicas(host: Host) -> list[str]:
    return [view.replica_id for view in host.service.replicas() if view.state == "serving"]


def shown(host: Host, engine: str) -> ReplicaDrift:
    return next(r for r in host.service.drift.report().replicas if r.engine == engine)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with serving(1) as here:
        yield here


async def test_replicas_as_predicted_are_only_written_down(host: Host) -> None:
    traffic = Traffic(desk_of(host))
    traffic.flow(60, dict.fromkeys(replicas(host), 1.0))
    report = host.service.drift.report()
    assert {r.verdict for r in report.replicas} == {"holds"}
    assert not report.corrections
    assert not report.remeasures
    entries = host.service.drift.ledger(model="a")
    assert len(entries) >= 2
    (pace, *_) = entries[0].findings
    assert pace.measured == pytest.approx(pace.predicted, rel=0.02)
    assert not [kind for kind in host.kinds() if kind.startswith("drift")]


async def test_slower_replicas_correct_the_plans_and_are_to_be_measured_again(host: Host) -> None:
    traffic, names = Traffic(desk_of(host)), replicas(host)
    rate = {p.candidate.capacity_req_per_s for p in (await host.service.plan()).plan.placements}
    traffic.flow(80, dict.fromkeys(names, 1.5))

    report = host.service.drift.report()
    (correction,) = report.corrections
    assert correction.factor == 0.65
    assert correction.low is not None
    assert correction.low <= 1.5 <= (correction.high or 0)
    assert "1.50 times what its profile predicts at this load" in shown(host, names[0]).words
    assert "drift" in host.kinds()
    assert "figures-corrected" in host.kinds()

    plan = (await host.service.plan()).plan
    assert {p.candidate.correction for p in plan.placements} == {0.65}
    assert {p.candidate.capacity_req_per_s for p in plan.placements} == {0.65 * r for r in rate}
    assert any("planned times 0.65" in line for line in plan.explanation)

    (job,) = open_jobs(host)
    assert job.state is JobState.QUEUED
    assert job.reason.startswith(f"drift of {correction.profile_id}: its replicas take 1.50 times")
    await until(lambda: "quiet time" in host.service.job(job.id).progress.message)
    (wanted,) = report.remeasures
    assert wanted.job_id == job.id


async def test_what_goes_away_is_taken_back(host: Host) -> None:
    traffic, names = Traffic(desk_of(host)), replicas(host)
    traffic.flow(80, dict.fromkeys(names, 1.5))
    (job,) = open_jobs(host)
    traffic.flow(300, dict.fromkeys(names, 1.0))
    assert host.service.drift.report().corrections == ()
    assert host.service.job(job.id).state is JobState.CANCELLED
    assert {"drift-over", "figures-restored"} <= set(host.kinds())
    plan = (await host.service.plan()).plan
    assert {p.candidate.correction for p in plan.placements} == {1.0}


async def test_one_slow_replica_of_three_is_its_devices_matter() -> None:
    async with serving(3) as host:
        slow, *others = replicas(host)
        assert len(others) == 2
        traffic = Traffic(desk_of(host))
        traffic.flow(80, {slow: 1.5, **dict.fromkeys(others, 1.0)})
        assert shown(host, slow).verdict == "slower"
        assert "2 others on this profile hold: look at cpu" in shown(host, slow).words
        assert {shown(host, name).verdict for name in others} == {"holds"}
        report = host.service.drift.report()
        assert not report.corrections
    assert not report.remeasures


async def test_corrections_outlive_the_daemon_and_can_be_lifted(host: Host) -> None:
    traffic, names = Traffic(desk_of(host)), replicas(host)
    traffic.flow(80, dict.fromkeys(names, 1.5))
    await host.restart()
    await host.serves("a")
    (correction,) = host.service.drift.report().corrections
    assert correction.factor == 0.65
    again = Traffic(desk_of(host))
    again.flow(1, dict.fromkeys(names, 1.5))
    assert shown(host, names[0]).verdict == "slower"

    assert host.service.drift.lift(correction.profile_id) == correction
    assert host.service.drift.report().corrections == ()
    with pytest.raises(NotFoundError, match="no figures"):
        host.service.drift.lift(correction.profile_id)


async def test_quite_other_requests_are_told_and_not_compared(host: Host) -> None:
    traffic, names = Traffic(desk_of(host)), replicas(host)
    traffic.flow(80, dict.fromkeys(names, 3.0), prompt=900.0, output=16.0)
    view = shown(host, names[0])
    assert view.verdict == "learning"
    assert "900 + 16 tokens in the mean" in view.words
    assert host.service.drift.report().corrections == ()
    assert host.kinds().count("drift-lengths") == len(names)


async def test_a_proxy_that_began_anew_is_no_drift(host: Host) -> None:
    traffic, names = Traffic(desk_of(host)), replicas(host)
    for epoch in range(8):
        traffic.flow(7, dict.fromkeys(names, 1.0))
        traffic.counts, traffic.epoch = {}, f"proxy {epoch}"
    traffic.flow(40, dict.fromkeys(names, 1.0))
    assert {r.verdict for r in host.service.drift.report().replicas} <= {"holds", "learning"}


async def test_nothing_is_judged_while_something_is_measured_beside_it(host: Host) -> None:
    desk, names = desk_of(host), replicas(host)
    lent = CpuCores("cpu", Bytes(GIB), (1,))
    desk._leases = lambda: (lent,)
    Traffic(desk).flow(80, dict.fromkeys(names, 3.0))
    assert host.service.drift.ledger() == []


async def test_a_model_that_is_gone_leaves_no_correction(host: Host) -> None:
    traffic, names = Traffic(desk_of(host)), replicas(host)
    traffic.flow(80, dict.fromkeys(names, 1.5))
    await host.service.remove("a")
    await until(lambda: not replicas(host))
    traffic.counts = {}
    traffic.flow(40, {})
    assert host.service.drift.report().corrections == ()
    assert host.store.marks("drift") == {}
    await asyncio.sleep(0)
