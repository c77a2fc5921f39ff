"""The job queue runs jobs side by side, shows waiting, cancels, and survives a restart."""

import asyncio
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence

import pytest

from partitiond.controller.journal import Journal
from partitiond.controller.profiles.job_room import Lent
from partitiond.controller.profiles.jobs import JobQueue, Neighbours, Tell
from partitiond.controller.runtime.interrupted_jobs import INTERRUPTED, REPEATS, interrupted_jobs
from partitiond.controller.store_waits import StoreWaits
from partitiond.core.errors import StartFailedError, StoreError
from partitiond.core.hardware.partition import CpuCores, WholeDevice
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.replica.job_slots import MeasuringJob, Slots, Turn, WaitingJob, next_job
from partitiond.core.replica.leases import Lease
from partitiond.core.units import GIB, Bytes
from partitiond.engines.process.spawn import to_end
from partitiond.ports import Store
from partitiond.store import SqlStore
from tests.controller.fakes import FakeClock, a_moment, until

RUNS = (JobState.RUNNING,)
LEASE = Lease(CpuCores("cpu", Bytes(GIB), (0,)), (0,))
ELSEWHERE = Lease(WholeDevice("gpu", Bytes(GIB)), (0,))


def device_of(job: Job) -> str:
    return "gpu" if job.subject == "elsewhere" else "cpu"


class Desk:
    """A queue whose jobs end when told to."""

    def __init__(self, store: Store, slots: Slots | None = None) -> None:
        self.store = store
        self.slots = slots or Slots()
        self.beside: dict[str, Neighbours] = {}
        self.blocked: dict[str, str] = {}
        self.running: dict[str, asyncio.Future[str]] = {}
        self.ended: list[tuple[str, JobState]] = []
        self.seen: list[list[str]] = []
        self.paused = ""
        clock = FakeClock()
        self.queue = JobQueue(
            store=store,
            clock=clock,
            journal=Journal(store, clock),
            turn=self._turn,
            execute=self._execute,
            ended=lambda job: self.ended.append((job.id, job.state)),
            write=StoreWaits(store).write,
            paused=lambda: self.paused,
        )

    def _turn(
        self, queue: Sequence[Job], running: Sequence[Lent], passed: Mapping[str, int]
    ) -> Turn[Lease]:
        self.seen.append([job.subject for job in queue])
        waiting = [
            WaitingJob(
                job.id, job.id, job.subject, (device_of(job),), job.device_id, passed=passed[job.id]
            )
            for job in queue
        ]
        measuring = [MeasuringJob(job.id, job.id, device_of(job)) for job, _ in running]
        return next_job(waiting, measuring, self.slots, self)

    def lease(self, needs: Hashable, device_id: str) -> Lease | str:
        blocked = self.blocked.get(str(needs), "")
        return blocked or (ELSEWHERE if device_id == "gpu" else LEASE)

    def fits_without_jobs(self, needs: Hashable, device_id: str) -> bool:
        return False

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
        (job,) = (j for j in self.queue.jobs() if j.subject == subject and j.state in RUNS)
        if isinstance(result, str):
            self.running[subject].set_result(result)
        else:
            self.running[subject].set_exception(result)
        await a_moment()
        return self.queue.job(job.id)

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
    assert first.state is JobState.RUNNING
    assert first.progress == Progress("measuring", "on cores (0,)", 0.25)
    assert desk.queue.leases() == (LEASE.partition,)
    assert (second.state, second.progress.message) == (JobState.QUEUED, f"waits for {first.id}")
    first = await desk.ends("a", "profile-a")
    assert (first.state, first.result) == (JobState.SUCCEEDED, "profile-a")
    assert desk.ended == [(first.id, JobState.SUCCEEDED)]
    assert desk.queue.job(second.id).state is JobState.RUNNING
    await desk.ends("b")
    assert desk.queue.leases() == ()


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
    tells[0](Progress("confirming", "engine"))
    assert desk.queue.starting() == ()


async def test_as_many_run_at_once_as_are_allowed_and_each_knows_who_ran_beside_it(
    store: Store,
) -> None:
    desk = Desk(store, Slots(per_device=2, per_host=3))
    first, second = await desk.submit("a"), await desk.submit("b")
    elsewhere, waiting = await desk.submit("elsewhere"), await desk.submit("c")
    assert {job.state for job in (first, second, elsewhere)} == {JobState.RUNNING}
    assert waiting.progress.message == f"waits for {first.id} or {second.id} or {elsewhere.id}"
    assert desk.queue.running == first.id
    assert desk.queue.leases() == (LEASE.partition, LEASE.partition, ELSEWHERE.partition)
    assert (await desk.ends("b")).id == second.id
    assert desk.queue.job(waiting.id).state is JobState.RUNNING
    assert desk.beside["a"]() == (second.id, waiting.id)
    assert desk.beside["b"]() == (first.id,)
    assert desk.beside["c"]() == (first.id,)
    assert desk.beside["elsewhere"]() == ()
    await desk.queue.cancel(first.id)
    assert desk.running["a"].cancelled()
    assert desk.queue.running == elsewhere.id
    await desk.queue.close()
    assert not desk.queue.busy
    states = {job.subject: job.state for job in desk.queue.jobs()}
    assert states["c"] is states["elsewhere"] is JobState.FAILED


async def test_a_job_and_its_events_say_on_which_device_it_runs(desk: Desk) -> None:
    job = await desk.submit("elsewhere")
    waiting = await desk.submit("elsewhere 2")
    assert (job.device_id, waiting.device_id) == ("gpu", "cpu")
    blocked = desk.queue.submit("profile", "elsewhere", [("cores", "2")])
    assert blocked.device_id == ""
    await desk.ends("elsewhere", StartFailedError("it exited."))
    told = {e.kind: e.message for e in desk.store.events() if e.subject == job.id}
    assert told["job-queued"] == "profile of elsewhere."
    assert told["job-started"] == "profile of elsewhere on gpu."
    assert told["job-failed"] == "profile of elsewhere on gpu: it exited."
    assert desk.queue.job(job.id).device_id == "gpu"


async def test_jobs_that_were_interrupted_together_go_on_before_all_that_wait(desk: Desk) -> None:
    await desk.submit("a")
    await desk.submit("elsewhere")
    for name in ("b", "c"):
        assert (await desk.submit(name)).state is JobState.QUEUED
    after = desk.again()
    lost = interrupted_jobs(desk.store.jobs(limit=None))
    assert [(job.subject, job.device_id) for job in lost] == [("a", "cpu"), ("elsewhere", "gpu")]
    after.queue.go_on(lost)
    await a_moment()
    assert set(after.running) == {"a", "elsewhere"}
    assert after.seen[0] == ["a", "elsewhere", "b", "c"]
    again = desk.again()  # the same once more, before anything ended
    again.queue.go_on(interrupted_jobs(desk.store.jobs(limit=None)))
    await a_moment()
    assert set(again.running) == {"a", "elsewhere"}
    for one in (after, again):
        await one.queue.close()


async def test_how_often_a_job_was_passed_over_is_counted_until_it_begins(desk: Desk) -> None:
    counts: list[dict[str, int]] = []
    begin: list[str] = []

    def turn(
        queue: Sequence[Job], running: Sequence[Lent], passed: Mapping[str, int]
    ) -> Turn[Lease]:
        counts.append(dict(passed))
        first, last = queue[0], queue[-1]
        if len(queue) > 1 and begin:
            begin.pop()
            return Turn(last.id, LEASE, {}, (first.id,))
        return Turn(None, None, {job.id: "waits" for job in queue})

    desk.queue._turn = turn
    slow = await desk.submit("slow")
    for name in ("b", "c"):
        begin.append(name)
        await desk.submit(name)
    assert counts[-1] == {slow.id: 2}
    await desk.queue.cancel(slow.id)
    assert (await desk.submit("slow")).id != slow.id
    assert set(counts[-1].values()) == {0}


async def test_while_measuring_is_paused_no_job_begins_and_each_says_why(desk: Desk) -> None:
    why = "waits until a-1 serves"
    desk.paused = why
    jobs = [await desk.submit(name) for name in ("a", "b")]
    assert [job.progress.message for job in jobs] == [why, why]
    assert [job.state for job in jobs] == [JobState.QUEUED, JobState.QUEUED]
    assert desk.running == {}
    desk.paused = ""
    desk.queue.poke()
    await a_moment()
    assert list(desk.running) == ["a"]


async def test_a_job_says_what_it_waits_for_and_does_not_hold_up_others(desk: Desk) -> None:
    desk.blocked["a"] = "waits for core 0: b-1 holds it"
    waiting, other = await desk.submit("a"), await desk.submit("b")
    assert waiting.progress.message == "waits for core 0: b-1 holds it"
    assert other.state is JobState.RUNNING
    await desk.ends("b")
    desk.blocked.clear()
    desk.queue.poke()
    await a_moment()
    assert desk.queue.job(waiting.id).state is JobState.RUNNING


async def test_a_job_that_waits_is_known_however_many_came_after_it(desk: Desk) -> None:
    running = await desk.submit("a")
    desk.blocked["long"] = "waits for room"
    waiting = await desk.submit("long")
    for n in range(120):
        desk.queue.submit("profile", "many", [("batch", str(n))])
    assert {running.id, waiting.id} <= {job.id for job in desk.queue.jobs()}
    assert [job.id for job in desk.queue.jobs()][-2:] == [waiting.id, running.id]
    assert (await desk.submit("long")).id == waiting.id
    assert (await desk.submit("a")).id == running.id
    assert desk.queue.submit("profile", "long", [("cores", "2")]).id != waiting.id
    assert desk.queue.submit("drift", "long", [("cores", "1")]).id != waiting.id
    await desk.queue.cancel(waiting.id)
    assert (await desk.submit("long")).id != waiting.id


async def test_after_a_restart_running_jobs_have_failed_and_all_waiting_ones_wait_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partitiond.store.repository.MAX_JOBS", 3)
    desk.blocked["first"] = "waits for room"
    first = await desk.submit("first")
    for n in range(8):
        await desk.submit(f"done-{n}")
        assert (await desk.ends(f"done-{n}")).state is JobState.SUCCEEDED
    running = await desk.submit("a")
    after = desk.again()
    job = after.queue.job(running.id)
    assert (job.state, job.error) == (JobState.FAILED, INTERRUPTED)
    after.queue.poke()
    await a_moment()
    assert after.queue.job(first.id).state is JobState.RUNNING
    await after.queue.close()


def fill(store: Store, *, full: bool) -> None:
    """Let the store be full, by SQLite's own limit, or no longer."""
    assert isinstance(store, SqlStore)
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
    await until(lambda: desk.queue.job(job.id).state is JobState.SUCCEEDED)
    await until(lambda: desk.queue.job(waiting.id).state is JobState.RUNNING)
    assert desk.ended == [(job.id, JobState.SUCCEEDED)]


async def test_a_queue_ends_at_once_though_the_store_is_full(desk: Desk) -> None:
    job = await desk.submit("a")
    fill(desk.store, full=True)
    desk.running["a"].set_result("p" * 100_000)
    await a_moment()
    await desk.queue.close()
    fill(desk.store, full=False)
    assert desk.again().queue.job(job.id).error == INTERRUPTED


LINES = ["RuntimeError: no such kernel", *(f"at line {n}" for n in range(40))]
QUOTED = ["error: no such kernel", "exit: 1", "INFO: no such kernel, or another"]


@pytest.mark.parametrize(
    ("broke", "told"),
    [
        (StartFailedError("it exited.", hint="See its log."), ["it exited. See its log."]),
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
    ids=["engine", "defect", "lines", "a line that the message quotes"],
)
async def test_a_failed_job_says_why_with_the_log_lines_that_matter(
    desk: Desk, broke: Exception, told: list[str]
) -> None:
    await desk.submit("a")
    job = await desk.ends("a", broke)
    assert (job.state, job.error.splitlines()) == (JobState.FAILED, told)
    assert all("\n" not in event.message for event in desk.store.events())
    assert (await desk.submit("b")).state is JobState.RUNNING, "it ends the job, not the queue"


async def test_cancelling_ends_what_runs_and_what_waits_and_changes_nothing_else(
    desk: Desk,
) -> None:
    running, waiting = await desk.submit("a"), await desk.submit("b")
    assert (await desk.queue.cancel(waiting.id)).state is JobState.CANCELLED
    assert (await desk.queue.cancel(running.id)).state is JobState.CANCELLED
    assert desk.running["a"].cancelled(), "it returns once nothing of it runs"
    assert not desk.queue.busy
    early = desk.queue.submit("profile", "c", [])  # cancelled before its first step
    assert (await desk.queue.cancel(early.id)).state is JobState.CANCELLED
    assert not desk.queue.busy
    await desk.submit("d")
    done = await desk.ends("d")
    assert (await desk.queue.cancel(done.id)).state is JobState.SUCCEEDED
    assert set(desk.running) == {"a", "d"}


def job(number: int, subject: str, state: JobState, error: str = "") -> Job:
    waits = Progress("queued", "")
    return Job(f"job-{number}", "profile", subject, state, "", "", waits, error=error)


def test_an_interrupted_job_is_repeated_a_few_times_and_not_for_ever() -> None:
    lost = [job(n, "a", JobState.FAILED, INTERRUPTED) for n in range(REPEATS + 1, 0, -1)]
    assert interrupted_jobs(lost[:1]) == (lost[0],)
    assert interrupted_jobs(lost[:REPEATS]) == (lost[0],)
    assert interrupted_jobs(lost) == ()
    done = job(9, "a", JobState.SUCCEEDED)
    assert interrupted_jobs([done, *lost[:1]]) == ()
    assert interrupted_jobs([lost[0], done, *lost]) == (lost[0],)


def test_only_what_the_daemon_interrupted_is_repeated_in_the_order_it_was_asked_for() -> None:
    first, second = (job(n, s, JobState.FAILED, INTERRUPTED) for n, s in ((1, "a"), (3, "b")))
    failed = job(2, "c", JobState.FAILED, "out of memory.")
    assert interrupted_jobs([second, failed, first]) == (first, second)


async def test_an_interrupted_job_names_the_one_in_its_place_and_still_counts(desk: Desk) -> None:
    lost = await desk.submit("a")
    await desk.queue.close()
    assert "Ask for it again: it resumes with the trials" in desk.store.job(lost.id).error
    after = desk.again()
    (old,) = interrupted_jobs(desk.store.jobs())
    after.queue.go_on([old])
    (new,) = after.queue.open_jobs("a")
    error = after.queue.job(lost.id).error
    assert error.startswith("interrupted:")
    assert new.id in error
    assert "Ask for it again" not in error
    await after.queue.close()
    assert len(interrupted_jobs(desk.store.jobs())) == 1


async def test_a_withdrawn_job_says_why_and_one_somebody_asked_for_has_no_reason(
    desk: Desk,
) -> None:
    await desk.submit("a")
    queued = desk.queue.submit("profile", "b", [], reason="not measured yet")
    assert queued.reason
    asked = desk.queue.submit("profile", "b", [])
    assert (asked.id, asked.reason) == (queued.id, "")
    (wanted,) = [event for event in desk.store.events() if event.kind == "job-wanted"]
    assert (wanted.subject, "not measured yet" in wanted.message) == (queued.id, True)
    desk.queue.withdraw(asked, "nothing needs it any more.")
    ended = desk.queue.job(asked.id)
    assert (ended.state, ended.error) == (
        JobState.CANCELLED,
        "withdrawn: nothing needs it any more.",
    )


async def test_a_waiting_job_that_cannot_be_written_as_ended_goes_on_waiting(desk: Desk) -> None:
    running = await desk.submit("a")
    jobs = [await desk.submit(name) for name in ("b", "c")]
    fill(desk.store, full=True)
    with pytest.raises(StoreError):
        desk.queue.withdraw(jobs[0], "p" * 100_000)
    assert desk.ended == []
    assert desk.queue.open_jobs("b") == (desk.queue.job(jobs[0].id),)
    fill(desk.store, full=False)
    assert (await desk.queue.cancel(jobs[0].id)).state is JobState.CANCELLED
    await desk.queue.cancel(running.id)
    await a_moment()
    assert desk.queue.job(jobs[1].id).state is JobState.RUNNING


async def test_a_job_that_cannot_be_stored_is_not_queued(desk: Desk) -> None:
    await desk.submit("a")
    fill(desk.store, full=True)
    with pytest.raises(StoreError, match="full"):
        desk.queue.submit("profile", "b", [("trace", "p" * 100_000)])
    fill(desk.store, full=False)
    assert desk.queue.open_jobs("b") == ()
    assert [job.subject for job in desk.queue.jobs()] == ["a"]


async def test_what_is_being_cancelled_does_not_stand_for_who_asks_again(desk: Desk) -> None:
    stopped = asyncio.Event()

    async def slow_to_end(job: Job, lease: Lease, tell: Tell, neighbours: Neighbours) -> str:
        measured: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        try:
            return await measured
        finally:
            await to_end(stopped.wait())

    execute, desk.queue._execute = desk.queue._execute, slow_to_end
    first = await desk.submit("a")
    cancelling = [asyncio.create_task(desk.queue.cancel(first.id)) for _ in range(2)]
    await a_moment()
    desk.queue._execute = execute
    again = await desk.submit("a")
    assert (again.id != first.id, again.state) == (True, JobState.QUEUED)
    assert (await desk.submit("a")).id == again.id
    stopped.set()
    assert [(await one).state for one in cancelling] == [JobState.CANCELLED] * 2
    assert desk.ended == [(first.id, JobState.CANCELLED)]
    await until(lambda: desk.queue.job(again.id).state is JobState.RUNNING)
