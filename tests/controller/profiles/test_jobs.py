"""The job queue runs jobs side by side, shows waiting, cancels, and survives a restart."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from partitiond.controller.journal import Journal
from partitiond.controller.profiles.job_room import Lent
from partitiond.controller.profiles.jobs import JobQueue, Neighbours, Tell
from partitiond.controller.runtime.interrupted_jobs import (
    REPEATS,
    interrupted_jobs,
    repeats_elsewhere,
)
from partitiond.controller.store_waits import StoreWaits
from partitiond.core.errors import StartFailedError, StoreError
from partitiond.core.hardware.partition import CpuCores, WholeDevice
from partitiond.core.profile.jobs import IN_FULL, Job, JobCause, JobState, Progress
from partitiond.core.replica.job_slots import Turn
from partitiond.core.replica.leases import Lease
from partitiond.core.units import GIB, Bytes
from partitiond.engines.process.spawn import to_end
from partitiond.store import Store
from tests.controller.fakes import FakeClock, a_moment
from tests.machine import until

QUEUED, RUNNING, FAILED = JobState.QUEUED, JobState.RUNNING, JobState.FAILED
SUCCEEDED, CANCELLED = JobState.SUCCEEDED, JobState.CANCELLED
LEASE = Lease(CpuCores("cpu", Bytes(GIB), (0,)), (0,))
ELSEWHERE = Lease(WholeDevice("gpu", Bytes(GIB)), (0,))


class Desk:
    """A queue whose jobs end when told to; one runs on each device, in their order."""

    def __init__(self, store: Store, slots: int = 1) -> None:
        self.store, self.slots = store, slots
        self.beside: dict[str, Neighbours] = {}
        self.blocked: dict[str, str] = {}
        self.running: dict[str, asyncio.Future[str]] = {}
        self.ended: list[tuple[str, JobState]] = []
        self.queues: list[list[str]] = []
        self.paused = ""
        self.clock = FakeClock()
        self.queue = JobQueue(
            store=store,
            clock=self.clock,
            journal=Journal(store, self.clock),
            turn=self._turn,
            execute=self._execute,
            ended=lambda job: self.ended.append((job.id, job.state)),
            write=StoreWaits(store).write,
            paused=lambda: self.paused,
            start_seconds=660.0,
        )

    def _turn(self, queue: Sequence[Job], running: Sequence[Lent]) -> Turn[Lease]:
        self.queues.append([job.subject for job in queue])
        taken = [lease.partition.device_id for _, lease in running]
        waits = {}
        for job in queue:
            lease = ELSEWHERE if job.subject == "elsewhere" else LEASE
            why = self.blocked.get(job.subject, "")
            if not why and taken.count(lease.partition.device_id) < self.slots:
                return Turn(job.id, lease, {})
            waits[job.id] = why or "waits for " + " or ".join(one.id for one, _ in running)
        return Turn(None, None, waits)

    async def _execute(self, job: Job, lease: Lease, tell: Tell, neighbours: Neighbours) -> str:
        tell(Progress("measuring", f"on cores {lease.cores}", 0.25))
        self.beside[job.subject] = neighbours
        self.running[job.subject] = asyncio.get_running_loop().create_future()
        return await self.running[job.subject]

    async def submit(self, subject: str) -> Job:
        job = self.queue.submit("profile", subject, [("cores", "1")])
        await a_moment()
        return self.queue.job(job.id)

    async def ends(self, subject: str, result: str | Exception = "x") -> Job:
        """The job that runs for this subject, once it has ended so."""
        (job,) = (j for j in self.queue.jobs() if j.subject == subject and j.state is RUNNING)
        if isinstance(result, str):
            self.running[subject].set_result(result)
        else:
            self.running[subject].set_exception(result)
        await a_moment()
        return self.queue.job(job.id)

    def state(self, job: Job) -> JobState:
        return self.queue.job(job.id).state

    def again(self) -> "Desk":
        """What the next daemon makes of the same store."""
        after = Desk(self.store)
        after.queue.recover()
        return after


@pytest.fixture
async def desk(store: Store) -> AsyncIterator[Desk]:
    here = Desk(store)
    yield here
    await here.queue.close()


async def test_a_job_runs_with_its_lease_keeps_its_result_and_gives_way_to_the_next(
    desk: Desk,
) -> None:
    first, second = await desk.submit("a"), await desk.submit("b")
    assert (first.state, first.device_id, second.device_id) == (RUNNING, "cpu", "")
    assert first.progress == Progress("measuring", "on cores (0,)", 0.25)
    assert desk.queue.leases() == (LEASE.partition,)
    assert (second.state, second.progress.message) == (QUEUED, f"waits for {first.id}")
    first = await desk.ends("a", "profile-a")
    assert (first.state, first.result) == (SUCCEEDED, "profile-a")
    assert desk.ended == [(first.id, SUCCEEDED)]
    assert desk.state(second) is RUNNING
    await desk.ends("b", StartFailedError("it exited."))
    assert desk.queue.leases() == ()
    told = {event.kind: event.message for event in desk.store.events()}
    assert told["job-queued"] == "profile of b."
    assert told["job-started"] == "profile of b on cpu."
    assert told["job-failed"] == "profile of b on cpu: it exited."


async def test_a_job_tells_where_it_starts_an_engine_only_while_it_does(desk: Desk) -> None:
    tells: list[Tell] = []

    async def execute(job: Job, lease: Lease, tell: Tell, neighbours: Neighbours) -> str:
        tells.append(tell)
        await asyncio.Event().wait()
        return ""

    desk.queue._execute = execute
    await desk.submit("a")
    for phase, devices in (("starting", ("cpu",)), ("measuring", ()), ("starting", ("cpu",))):
        tells[0](Progress(phase, "engine"))
        assert desk.queue.starting() == devices
    desk.clock.now += 660.0
    desk.queue.begin_due()
    assert desk.queue.starting() == ("cpu",)
    desk.clock.now += 1.0
    desk.queue.begin_due()
    assert desk.queue.starting() == (), "nor while it does not end"
    await a_moment()
    (job,) = desk.queue.jobs()
    assert (job.state, job.error) == (FAILED, "its engine did not start in 660 s. See its log.")


async def test_jobs_run_side_by_side_and_each_knows_who_ran_on_its_device(store: Store) -> None:
    desk = Desk(store, slots=2)
    first, second = await desk.submit("a"), await desk.submit("b")
    elsewhere, waiting = await desk.submit("elsewhere"), await desk.submit("c")
    assert {job.state for job in (first, second, elsewhere)} == {RUNNING}
    assert desk.queue.running == first.id
    assert desk.queue.leases() == (LEASE.partition, LEASE.partition, ELSEWHERE.partition)
    await desk.ends("b")
    assert desk.state(waiting) is RUNNING
    assert desk.beside["a"]() == (second.id, waiting.id)
    assert desk.beside["b"]() == desk.beside["c"]() == (first.id,)
    assert desk.beside["elsewhere"]() == ()
    await desk.queue.cancel(first.id)
    assert desk.running["a"].cancelled()
    assert desk.queue.running == elsewhere.id
    await desk.queue.close()
    assert not desk.queue.awaited
    assert desk.state(waiting) is desk.state(elsewhere) is FAILED


async def test_jobs_that_were_interrupted_go_on_before_all_that_wait(desk: Desk) -> None:
    lost = [await desk.submit("a"), await desk.submit("elsewhere")]
    waiting = await desk.submit("b")
    after = desk.again()
    for ended in (after.queue.job(job.id) for job in lost):
        assert ended.cause is JobCause.INTERRUPTED
        assert "Ask for it again." in ended.error
    olds = interrupted_jobs(desk.store.jobs(limit=None))
    assert [(job.subject, job.device_id) for job in olds] == [("a", "cpu"), ("elsewhere", "gpu")]
    after.queue.go_on(olds)
    await a_moment()
    assert set(after.running) == {"a", "elsewhere"}
    assert after.queues[0] == ["a", "elsewhere", "b"]
    (new,) = after.queue.open_jobs("a")
    assert (new.cause, new.error) == (JobCause.NONE, "")
    error = after.queue.job(lost[0].id).error
    assert error.startswith("interrupted:")
    assert new.id in error
    assert "Ask for it again" not in error
    again = desk.again()  # the same once more, before anything ended
    again.queue.go_on(interrupted_jobs(desk.store.jobs(limit=None)))
    await a_moment()
    assert set(again.running) == {"a", "elsewhere"}
    assert again.state(waiting) is QUEUED
    for one in (after, again):
        await one.queue.close()
    assert interrupted_jobs(desk.store.jobs()) == (), "each time counts: that was enough"


async def test_a_first_look_comes_before_what_others_left_open(desk: Desk) -> None:
    await desk.submit("runs")
    for subject, reason in (("open", IN_FULL), ("look", "not measured")):
        desk.queue.submit("profile", subject, (), reason=reason)
        desk.queue.begin_due()
    assert desk.queues[-1] == ["look", "open"]


async def test_while_measuring_is_paused_no_job_begins_and_each_says_why(desk: Desk) -> None:
    desk.paused = "waits until a-1 serves"
    jobs = [await desk.submit(name) for name in ("a", "b")]
    assert [(job.state, job.progress.message) for job in jobs] == [(QUEUED, desk.paused)] * 2
    desk.paused = ""
    desk.queue.begin_due()
    await a_moment()
    assert list(desk.running) == ["a"]


async def test_a_job_that_waits_is_known_however_many_came_after_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partitiond.store.repository.MAX_JOBS", 3)
    running = await desk.submit("a")
    desk.blocked["long"] = "waits for room"
    waiting = await desk.submit("long")
    for n in range(120):
        desk.queue.submit("profile", "many", [("batch", str(n))])
    assert [job.id for job in desk.queue.jobs()][-2:] == [waiting.id, running.id]
    assert (await desk.submit("long")).id == waiting.id
    assert (await desk.submit("a")).id == running.id
    assert desk.queue.submit("profile", "long", [("cores", "2")]).id != waiting.id
    assert desk.queue.submit("drift", "long", [("cores", "1")]).id != waiting.id
    after = desk.again()
    after.queue.begin_due()
    await a_moment()
    assert after.state(waiting) is RUNNING
    await after.queue.close()


def fill(store: Store, *, full: bool) -> None:
    """Let the store be full, by SQLite's own limit, or no longer."""
    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        limit = pages if full else 1_000_000
        connection.exec_driver_sql(f"PRAGMA max_page_count = {limit}")


async def test_a_job_that_ends_while_the_store_is_full_has_ended_once_there_is_room(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("partitiond.controller.profiles.jobs.WRITE_AGAIN_SECONDS", 0.001)
    job, waiting = await desk.submit("a"), await desk.submit("b")
    fill(desk.store, full=True)
    desk.running["a"].set_result("p" * 100_000)  # so long that it needs a page
    await until(lambda: "not written" in caplog.text)
    assert (desk.queue.leases(), desk.ended) == ((LEASE.partition,), [])
    fill(desk.store, full=False)
    await until(lambda: "b" in desk.running)
    assert desk.ended == [(job.id, SUCCEEDED)]
    fill(desk.store, full=True)
    desk.running["b"].set_result("p" * 100_000)
    await a_moment()
    await desk.queue.close()  # at once, though nothing can be written
    fill(desk.store, full=False)
    assert desk.again().queue.job(waiting.id).cause is JobCause.INTERRUPTED


async def test_while_the_store_is_full_no_job_is_queued_or_ended(desk: Desk) -> None:
    running = await desk.submit("a")
    jobs = [await desk.submit(name) for name in ("b", "c")]
    fill(desk.store, full=True)
    with pytest.raises(StoreError, match="full"):
        desk.queue.submit("profile", "d", [("trace", "p" * 100_000)])
    with pytest.raises(StoreError):
        desk.queue.withdraw(jobs[0], "p" * 100_000)
    assert desk.ended == []
    assert desk.queue.open_jobs("b") == (desk.queue.job(jobs[0].id),)
    fill(desk.store, full=False)
    assert {job.subject for job in desk.queue.jobs()} == {"a", "b", "c"}
    assert (await desk.queue.cancel(jobs[0].id)).state is CANCELLED
    await desk.queue.cancel(running.id)
    await a_moment()
    assert desk.state(jobs[1]) is RUNNING


LINES = ["RuntimeError: no such kernel", *(f"at line {n}" for n in range(40))]
QUOTED = ["error: no such kernel", "exit: 1", "INFO: no such kernel, or another"]


@pytest.mark.parametrize(
    ("broke", "told"),
    [
        (ZeroDivisionError("oops"), ["ZeroDivisionError: oops"]),
        (
            StartFailedError("it exited.", hint="See its log.", facts={"lines": LINES}),
            ["it exited. See its log.", *(f"    {line}" for line in LINES[:12])],
        ),
        (
            StartFailedError("exit code 1: no such kernel.", facts={"lines": QUOTED}),
            ["exit code 1: no such kernel.", *(f"    {line}" for line in QUOTED[1:])],
        ),
    ],
    ids=["defect", "lines", "a line that the message quotes"],
)
async def test_a_failed_job_says_why_with_the_log_lines_that_matter(
    desk: Desk, broke: Exception, told: list[str]
) -> None:
    await desk.submit("a")
    job = await desk.ends("a", broke)
    assert (job.state, job.error.splitlines()) == (FAILED, told)
    assert all("\n" not in event.message for event in desk.store.events())
    assert (await desk.submit("b")).state is RUNNING, "it ends the job, not the queue"


async def test_cancelling_ends_what_runs_and_what_waits_and_changes_nothing_else(
    desk: Desk,
) -> None:
    running, waiting = await desk.submit("a"), await desk.submit("b")
    assert (await desk.queue.cancel(waiting.id)).state is CANCELLED
    assert (await desk.queue.cancel(running.id)).state is CANCELLED
    assert desk.running["a"].cancelled(), "it returns once nothing of it runs"
    assert not desk.queue.awaited
    early = desk.queue.submit("profile", "c", [])  # cancelled before its first step
    assert (await desk.queue.cancel(early.id)).state is CANCELLED
    assert not desk.queue.awaited
    await desk.submit("d")
    done = await desk.ends("d")
    assert (await desk.queue.cancel(done.id)).state is SUCCEEDED
    assert set(desk.running) == {"a", "d"}


def job(number: int, subject: str, state: JobState, cause: JobCause = JobCause.NONE) -> Job:
    waits = Progress("queued", "")
    return Job(f"job-{number}", "profile", subject, state, "", "", waits, cause=cause)


def test_only_an_interrupted_job_is_repeated_a_few_times_and_not_for_ever() -> None:
    lost = [job(n, "a", FAILED, JobCause.INTERRUPTED) for n in range(REPEATS + 1, 0, -1)]
    assert interrupted_jobs(lost[:1]) == interrupted_jobs(lost[:REPEATS]) == (lost[0],)
    assert interrupted_jobs(lost) == ()
    done = job(9, "a", SUCCEEDED)
    assert interrupted_jobs([done, *lost[:1]]) == ()
    assert interrupted_jobs([lost[0], done, *lost]) == (lost[0],)
    first, second = (job(n, s, FAILED, JobCause.INTERRUPTED) for n, s in ((1, "a"), (3, "b")))
    failed = job(2, "c", FAILED, JobCause.HOST_LOST)
    assert interrupted_jobs([second, failed, first]) == (first, second), "as they were asked for"


def test_only_a_job_whose_host_was_lost_is_repeated_elsewhere_and_not_for_ever() -> None:
    last, *lost = (job(n, "a", FAILED, JobCause.HOST_LOST) for n in range(REPEATS + 1, 0, -1))
    assert repeats_elsewhere(last, lost[1:])
    assert not repeats_elsewhere(last, lost)
    assert repeats_elsewhere(last, [last, job(9, "a", SUCCEEDED), *lost])
    assert not repeats_elsewhere(job(9, "a", FAILED, JobCause.INTERRUPTED), [])


async def test_a_withdrawn_job_says_why_and_one_somebody_asked_for_has_no_reason(
    desk: Desk,
) -> None:
    for subject, state in (("a", RUNNING), ("b", JobState.QUEUED)):
        queued = desk.queue.submit(
            "profile", subject, [], reason="not measured yet", drift_of="p-1"
        )
        await a_moment()
        assert queued.reason
        asked = desk.queue.submit("profile", subject, [])
        assert (asked.id, asked.reason, asked.state) == (queued.id, "", state)
        assert (queued.drift_of, asked.drift_of) == ("p-1", "")
        assert desk.queue.job(queued.id).reason == desk.store.job(queued.id).reason == ""
        wanted = [event for event in desk.store.events() if event.kind == "job-wanted"][-1]
        assert (wanted.subject, "not measured yet" in wanted.message) == (queued.id, True)
    desk.queue.withdraw(asked, "nothing needs it any more.")
    ended = desk.queue.job(asked.id)
    assert (ended.state, ended.error) == (CANCELLED, "withdrawn: nothing needs it any more.")
    assert ended.cause is JobCause.WITHDRAWN


async def test_what_is_being_cancelled_does_not_stand_for_who_asks_again(desk: Desk) -> None:
    stopped = asyncio.Event()

    async def slow_to_end(job: Job, lease: Lease, tell: Tell, neighbours: Neighbours) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await to_end(stopped.wait())
        return ""

    execute, desk.queue._execute = desk.queue._execute, slow_to_end
    first = await desk.submit("a")
    cancelling = [asyncio.create_task(desk.queue.cancel(first.id)) for _ in range(2)]
    await a_moment()
    desk.queue._execute = execute
    again = await desk.submit("a")
    assert (again.id != first.id, again.state) == (True, QUEUED)
    assert (await desk.submit("a")).id == again.id
    stopped.set()
    assert [(await one).state for one in cancelling] == [CANCELLED] * 2
    assert desk.ended == [(first.id, CANCELLED)]
    await until(lambda: desk.state(again) is RUNNING)
