"""Drift is watched and corrected in a control plane whose engines are as slow as the test sets."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence

import pytest

from partitiond.controller.drift import use_cases as drift
from partitiond.controller.drift.use_cases import DriftUseCases
from partitiond.core.demand.traffic import ReplicaCount, TrafficSample, TrafficWindow
from partitiond.core.drift.detection import LedgerEntry
from partitiond.core.drift.load import sharing_factor
from partitiond.core.errors import NotFoundError, StoreError
from partitiond.core.hardware.kinds import DeviceKind, SharingMode
from partitiond.core.hardware.partition import CpuCores, PartitionSize
from partitiond.core.model.spec import Demand
from partitiond.core.plan.record import Candidate, same_engine
from partitiond.core.profile.jobs import Job, JobState
from partitiond.core.units import GIB, Bytes
from partitiond.core.views.drift import ReplicaDrift
from tests.controller.host import Host, serving
from tests.controller.samples import cpu, measured_profile
from tests.machine import until

LOOK_SECONDS, BATCH = 2.0, 2.0
PACE = 0.010
"""Of one core at two sequences, by the profile that the fake profiler makes: 2 / 200 tokens/s."""


class Traffic:
    """Counts of engines that serve two requests at a time, looked at every two seconds."""

    def __init__(self, host: Host) -> None:
        self.desk, self.names = desk_of(host), replicas(host)
        self.at = 0.0
        self.counts: dict[str, ReplicaCount] = {}
        self.epoch, self.slow = "one", ""

    def flow(self, looks: int, slower: float, **what: float) -> None:
        """So many looks; each engine, or just the slow one, takes so many times what is said."""
        for _ in range(looks):
            self.at += LOOK_SECONDS
            for name in self.names:
                old = self.counts.get(name, ReplicaCount("a", "g1"))
                factor = slower if self.slow in ("", name) else 1.0
                self.counts[name] = _later(old, factor, **what)
            self.desk.take_sample(TrafficSample(self.at, self.epoch, replicas=dict(self.counts)))


def _later(
    old: ReplicaCount,
    slower: float,
    *,
    prompt: float = 64.0,
    output: float = 32.0,
    first: float = 1.0,
    streams: float = 1.0,
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
        first_seconds=old.first_seconds + ended * streams * 0.1 * slower * first,
        first_count=old.first_count + round(ended * streams),
        rest_seconds=old.rest_seconds + ended * (output - 1) * PACE * slower,
        rest_tokens=old.rest_tokens + round(ended * (output - 1)),
        sequence_seconds=old.sequence_seconds + sequence_seconds,
        busy_seconds=old.busy_seconds + LOOK_SECONDS,
    )


def desk_of(host: Host) -> DriftUseCases:
    assert isinstance(host.service.drift, DriftUseCases)
    return host.service.drift


@contextlib.asynccontextmanager
async def fleet(count: int) -> AsyncIterator[Host]:
    """So many replicas of a model that was measured serve."""
    async with serving(Host(cores=count + 1)) as host:
        await host.register("a", demand=Demand(1.0), min_replicas=count)
        await host.serves("a")
        for job in open_jobs(host):  # what the first look left open
            await host.service.jobs.cancel(job.id)
        yield host


def open_jobs(host: Host) -> list[Job]:
    return host.jobs(JobState.QUEUED, JobState.RUNNING)


def replicas(host: Host) -> list[str]:
    return [view.replica_id for view in host.service.overview.replicas() if view.state == "serving"]


def shown(host: Host) -> ReplicaDrift:
    """How the only replica drifts."""
    (one,) = host.service.drift.report().replicas
    return one


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with fleet(1) as here:
        yield here


async def test_slower_replicas_correct_the_plans_and_are_measured_again_until_it_goes_away(
    host: Host,
) -> None:
    async def corrections() -> set[float]:
        plan = (await host.service.plans.preview()).plan
        assert plan.placements
        assert correcting == any("planned times 0.65" in line for line in plan.explanation)
        rates = {p.candidate.capacity_req_per_s for p in plan.placements}
        assert rates == {(0.65 if correcting else 1.0) * rate for rate in usual}
        assert all(map(same_engine, before, plan.placements))  # a correction moves nothing
        profiles = {p.candidate.profile_id for p in plan.placements}
        for view in (*host.service.profiles.views(), *map(host.service.profiles.view, profiles)):
            slower = any("plans take 0.65 of its rates" in why for why in view.stale)
            assert slower == (correcting and view.profile.id in profiles)
        return {p.candidate.correction for p in plan.placements}

    traffic = Traffic(host)
    traffic.flow(60, 1.0)  # as predicted: that is only written down
    report = host.service.drift.report()
    assert ({r.verdict for r in report.replicas}, report.corrections) == ({"holds"}, ())
    (pace, *_) = host.store.ledger(model="a")[0].findings
    assert pace.measured == pytest.approx(pace.predicted, rel=0.02)
    assert not [kind for kind in host.kinds() if kind.startswith("drift")]

    before = (await host.service.plans.preview()).plan.placements
    usual, correcting = {p.candidate.capacity_req_per_s for p in before}, True
    traffic.flow(80, 1.5)
    report = host.service.drift.report()
    (correction,) = report.corrections
    assert correction.factor == 0.65
    assert "1.50 times what its profile predicts at this load" in shown(host).words
    assert {"drift", "figures-corrected"} <= set(host.kinds())
    assert await corrections() == {0.65}

    (job,) = open_jobs(host)
    assert job.state is JobState.QUEUED
    assert job.drift_of == correction.profile_id
    assert "its replicas take 1.50 times" in job.reason
    await until(lambda: "quiet time" in host.service.jobs.job(job.id).progress.message)
    assert [wanted.job_id for wanted in report.remeasures] == [job.id]

    correcting = False
    traffic.flow(300, 1.0)
    assert host.service.drift.report().corrections == ()
    assert host.service.jobs.job(job.id).state is JobState.CANCELLED
    assert {"drift-over", "figures-restored"} <= set(host.kinds())
    assert await corrections() == {1.0}

    traffic.flow(200, 1.5)  # what was withdrawn is asked for again
    (again,) = open_jobs(host)
    assert again.id != job.id
    assert [wanted.job_id for wanted in host.service.drift.report().remeasures] == [again.id]
    await host.service.models.remove("a")
    await until(lambda: not replicas(host))
    traffic.names, traffic.counts = [], {}
    traffic.flow(40, 1.0)
    assert host.service.drift.report().corrections == ()
    assert host.store.marks("drift") == {}


async def test_one_slow_replica_of_three_is_its_devices_matter() -> None:
    async with fleet(3) as host:
        traffic = Traffic(host)
        traffic.slow = traffic.names[0]
        traffic.flow(80, 1.5)
        report = host.service.drift.report()
        found = {replica.engine: replica for replica in report.replicas}
        slow = found.pop(traffic.slow)
        assert slow.verdict == "slower"
        assert "2 others on this profile hold: look at cpu" in slow.words
        assert [other.verdict for other in found.values()] == ["holds"] * 2
        assert (report.corrections, report.remeasures) == ((), ())


async def test_corrections_outlive_the_daemon_and_stay_lifted_once_they_are(host: Host) -> None:
    Traffic(host).flow(80, 1.5)
    await host.restart()
    await host.serves("a")
    (correction,) = host.service.drift.report().corrections
    assert correction.factor == 0.65
    Traffic(host).flow(1, 1.5)
    assert shown(host).verdict == "slower"

    assert host.service.drift.lift(correction.profile_id) == correction
    with pytest.raises(NotFoundError, match="no figures"):
        host.service.drift.lift(correction.profile_id)
    await host.restart()
    await host.serves("a")
    again = Traffic(host)
    again.flow(1, 1.0)
    assert shown(host).verdict == "learning"
    again.flow(60, 1.0)
    assert host.service.drift.report().corrections == ()
    assert host.kinds().count("figures-corrected") == 1


UNLIKE = {"prompt": 900.0, "output": 16.0}
"""Requests unlike those that were measured."""


async def test_windows_that_lack_a_figure_are_told_and_repeat_no_event(host: Host) -> None:
    traffic = Traffic(host)
    traffic.flow(80, 3.0, **UNLIKE)
    assert shown(host).verdict == "learning"
    assert "900 + 16 tokens in the mean" in shown(host).words
    assert host.service.drift.report().corrections == ()
    traffic.flow(80, 1.5)
    for _ in range(4):
        traffic.flow(20, 1.5, **UNLIKE)
        traffic.flow(20, 1.5)
    traffic.flow(20, 1.5, **UNLIKE)
    traffic.flow(300, 1.0)
    for kind in ("drift", "drift-lengths", "figures-corrected", "drift-over"):
        assert host.kinds().count(kind) == 1, kind


async def test_windows_with_few_streams_repeat_no_event(host: Host) -> None:
    """What only streams tell does not end with a window that has too few of them."""
    traffic = Traffic(host)
    traffic.flow(80, 1.0, first=4.0)
    assert shown(host).verdict == "slower"
    for _ in range(3):
        traffic.flow(20, 1.0, first=4.0, streams=0.0)
        traffic.flow(20, 1.0, first=4.0)
    assert host.kinds().count("drift") == 1
    assert "drift-over" not in host.kinds()


async def test_a_profile_that_another_has_followed_is_not_corrected_again(host: Host) -> None:
    """Its replicas run on until a plan is applied; plans do not rest on it any more."""
    traffic = Traffic(host)
    traffic.flow(80, 1.5)
    (correction,) = host.service.drift.report().corrections
    old = host.store.profile(correction.profile_id)
    later = dataclasses.replace(old.provenance, started_at="2031-01-01T00:00:00Z")
    host.store.add_profile(dataclasses.replace(old, id="newer", provenance=later))
    traffic.flow(120, 1.5)
    assert host.service.drift.report().corrections == ()
    assert host.kinds().count("figures-corrected") == 1
    assert host.kinds().count("figures-restored") == 1
    assert open_jobs(host) == []


@pytest.mark.parametrize("is_ahead", [False, True])
async def test_what_drifts_from_the_new_profile_too_waits_for_a_day(
    host: Host, is_ahead: bool
) -> None:
    """Not if the clock was ahead as that was measured: it might be for years."""
    desk = desk_of(host)
    Traffic(host).flow(80, 1.5)
    (job,) = open_jobs(host)
    (correction,) = desk.report().corrections
    done = dataclasses.replace(job, id="job-900", state=JobState.SUCCEEDED)
    done = dataclasses.replace(done, drift_of="the-one-before")
    host.store.put_job(dataclasses.replace(done, updated_at="2098") if is_ahead else done)
    tend = desk.remeasures.tend
    tend({}, TrafficSample(1.0), done.updated_at)
    assert open_jobs(host) == []
    tend({correction.profile_id: "slower"}, TrafficSample(2.0), done.updated_at)
    assert len(open_jobs(host)) == is_ahead
    if is_ahead:
        return
    (wanted,) = desk.remeasures.open()
    assert "measured again because of drift already" in wanted.words
    for look in range(20):
        tend({correction.profile_id: "slower"}, TrafficSample(3.0 + look), "2099-01-01T00:00:00Z")
    (again,) = open_jobs(host)
    assert again.params == job.params
    await host.service.jobs.cancel(again.id)
    for look, drifting in enumerate(({}, {correction.profile_id: "slower"})):
        tend(drifting, TrafficSample(30.0 + look), "2099-01-01T00:00:00Z")
    assert open_jobs(host) == [], "what a person cancelled is left to people"
    # After another proxy no quiet time is known: what its predecessor had to do it does not count.
    desk.remeasures._window = TrafficWindow
    for at in range(100, 900, 2):
        tend({}, TrafficSample(at, "one"), job.updated_at)
    assert desk.remeasures.waits(job) == ""
    tend({}, TrafficSample(902.0, "two"), job.updated_at)
    assert "has not told" in desk.remeasures.waits(job)


async def test_a_derived_size_counts_for_plans_when_none_of_its_replicas_is_left(
    host: Host,
) -> None:
    """They may have been moved because of its correction, which has to hold then."""
    remeasures = desk_of(host).remeasures
    gpu = dataclasses.replace(
        cpu(), id="gpu-0", kind=DeviceKind.GPU, hardware="a100-80gb", modes=(SharingMode.MPS,)
    )
    remeasures._devices = lambda: [gpu]
    whole = dataclasses.replace(
        measured_profile("a", hardware=gpu.hardware), size=PartitionSize(SharingMode.WHOLE, 1, 100)
    )
    host.store.add_profile(whole)
    assert remeasures.counts(f"{whole.id}@mps-30")
    assert not remeasures.counts(f"{whole.id}@mps-31")


async def test_plans_that_take_no_corrections_show_none_and_no_full_disk_hides_a_drift(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Sequence[LedgerEntry]) -> None:
        raise StoreError("the disk is full.")

    desk = desk_of(host)
    desk._leases = lambda: (CpuCores("cpu", Bytes(GIB), (1,)),)
    traffic = Traffic(host)
    traffic.flow(80, 3.0)
    assert host.store.ledger() == [], "nothing is judged while something is measured there"
    desk._leases = tuple
    monkeypatch.setattr(host.store, "add_ledger_entries", full)
    desk._options = dataclasses.replace(desk._options, correct=False)
    traffic.flow(80, 1.5)
    assert host.kinds().count("drift") == 1
    assert desk.report().corrections == ()
    assert len(desk.report().remeasures) == 1


async def test_of_windows_that_fill_at_once_a_look_judges_so_many_and_writes_them_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drift, "JUDGED_PER_LOOK", 2)
    monkeypatch.setattr(drift, "REMEMBERED_PER_LOOK", 3)
    written: list[list[str]] = []
    beside: set[int] = set()
    async with fleet(5) as host:
        traffic, desk, keep = Traffic(host), desk_of(host), host.store.add_ledger_entries

        def counted(entries: Sequence[LedgerEntry]) -> None:
            written.append([entry.replica_id for entry in entries])
            keep(entries)

        def shared(
            mode: SharingMode, own: Candidate, others: list[tuple[Candidate, float]]
        ) -> float:
            beside.add(len(others))
            return sharing_factor(mode, own, others)

        monkeypatch.setattr(host.store, "add_ledger_entries", counted)
        monkeypatch.setattr(drift, "sharing_factor", shared)
        for seen in (3, 5):
            traffic.flow(1, 1.0)
            assert len(desk.report().replicas) == seen
        traffic.flow(11, 1.0)
        assert [len(one) for one in written] == [2, 2, 1]
        assert sorted(name for one in written for name in one) == sorted(traffic.names)
        assert beside == {4}  # who is not watched yet slows down the others all the same


async def test_what_another_proxy_counted_before_its_first_look_is_in_no_window(
    host: Host,
) -> None:
    """It may have passed the counts of the former one by then."""
    traffic = Traffic(host)
    traffic.flow(2, 1.0)
    per_look = next(iter(traffic.counts.values())).ok / 2
    traffic.epoch = "two"
    for _ in range(10):
        traffic.counts = {n: _later(c, 1.0) for n, c in traffic.counts.items()}
    traffic.flow(20, 1.0)
    entries = host.store.ledger(model="a")
    assert entries
    for entry in entries:
        assert entry.requests == pytest.approx(entry.seconds / LOOK_SECONDS * per_look)
