"""Every change wakes watchers; slow watchers get the newest state, and all get an end."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from partitiond.controller.watchers import Watchers
from partitiond.core.errors import NotFoundError
from partitiond.core.profile.jobs import (
    ENDED,
    Job,
    JobState,
    Progress,
)
from partitiond.store import open_store
from tests.controller.fakes import a_moment
from tests.controller.profiles.test_jobs import Desk


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    store = open_store(":memory:")
    here = Desk(store)
    yield here
    await here.queue.close()
    store.close()


def has_ended(job: Job) -> bool:
    return job.state in ENDED


def watched(desk: Desk, job_id: str) -> tuple[list[Job], "asyncio.Task[None]"]:
    """What a watcher sees, and the task that watches."""
    seen: list[Job] = []

    async def watch() -> None:
        async for job in desk.queue.watch(job_id):
            seen.append(job)

    return seen, asyncio.create_task(watch())


async def test_a_watcher_sees_a_job_from_the_queue_to_its_end(desk: Desk) -> None:
    await desk.submit("a")
    second = await desk.submit("b")
    seen, watching = watched(desk, second.id)
    await a_moment()
    desk.running["a"].set_result("x")
    await a_moment()
    desk.running["b"].set_result("profile-b")
    await asyncio.wait_for(watching, 60)
    states = [job.state for job in seen]
    assert states[0] is JobState.QUEUED
    assert JobState.RUNNING in states
    assert (seen[-1].state, seen[-1].result) == (JobState.SUCCEEDED, "profile-b")
    assert sum(job.state is JobState.SUCCEEDED for job in seen) == 1


async def test_a_job_that_ended_long_ago_is_told_once(desk: Desk) -> None:
    job = await desk.submit("a")
    desk.running["a"].set_result("x")
    await a_moment()
    seen, watching = watched(desk, job.id)
    await asyncio.wait_for(watching, 60)
    assert [one.state for one in seen] == [JobState.SUCCEEDED]


async def test_an_unknown_job_is_refused_before_anything_is_watched(desk: Desk) -> None:
    with pytest.raises(NotFoundError):
        desk.queue.watch("job-none")


async def test_the_end_of_the_daemon_ends_the_watch_of_a_waiting_job(desk: Desk) -> None:
    first = await desk.submit("a")
    second = await desk.submit("b")
    ran, running = watched(desk, first.id)
    waited, waiting = watched(desk, second.id)
    await a_moment()
    await desk.queue.close()
    await asyncio.wait_for(asyncio.gather(running, waiting), 60)
    assert ran[-1].state is JobState.FAILED
    assert waited[-1].state is JobState.QUEUED


async def test_a_slow_watcher_gets_the_newest_state_and_no_backlog() -> None:
    watchers = Watchers()
    job = Job("job-1", "profile", "a", JobState.RUNNING, "", "", Progress("x", "0"))
    now = [job]
    steps = watchers.watch("job-1", lambda: now[0], has_ended)
    assert (await anext(steps)).progress.message == "0"
    for number in range(1000):
        now[0] = Job("job-1", "profile", "a", JobState.RUNNING, "", "", Progress("x", str(number)))
        watchers.changed("job-1")
    assert (await anext(steps)).progress.message == "999"
    pending = asyncio.ensure_future(anext(steps))
    await a_moment()
    assert not pending.done()
    pending.cancel()
    await asyncio.wait([pending])
    assert watchers.count == 0


async def test_a_change_that_says_nothing_new_is_not_told() -> None:
    watchers = Watchers()
    job = Job("job-1", "profile", "a", JobState.QUEUED, "", "", Progress("x", ""))
    steps = watchers.watch("job-1", lambda: job, has_ended)
    await anext(steps)
    watchers.changed("job-1")
    pending = asyncio.ensure_future(anext(steps))
    await a_moment()
    assert not pending.done()
    watchers.close()
    with pytest.raises(StopAsyncIteration):
        await pending
