"""Every change wakes watchers; slow watchers get the newest state, and all get an end."""

import asyncio

import pytest

from partitiond.controller.watchers import Watchers
from partitiond.core.profile.jobs import ENDED, Job, JobState, Progress
from partitiond.ports import Store
from tests.controller.fakes import a_moment
from tests.controller.profiles.test_jobs import Desk


def has_ended(job: Job) -> bool:
    return job.state in ENDED


def watched(desk: Desk, job_id: str) -> tuple[list[Job], "asyncio.Task[None]"]:
    """What a watcher sees, and the task that watches."""
    seen: list[Job] = []

    async def watch() -> None:
        async for job in desk.queue.watch(job_id):
            seen.append(job)

    return seen, asyncio.create_task(watch())


async def test_a_watcher_sees_a_job_from_the_queue_to_its_end_or_that_of_the_daemon(
    store: Store,
) -> None:
    desk = Desk(store)
    await desk.submit("a")
    second, third = await desk.submit("b"), await desk.submit("c")
    seen, watching = watched(desk, second.id)
    waited, waiting = watched(desk, third.id)
    await a_moment()
    await desk.ends("a")
    await desk.ends("b", "profile-b")
    await asyncio.wait_for(watching, 60)
    states = [job.state for job in seen]
    assert (states[0], states.count(JobState.SUCCEEDED)) == (JobState.QUEUED, 1)
    assert JobState.RUNNING in states
    assert (seen[-1].state, seen[-1].result) == (JobState.SUCCEEDED, "profile-b")
    fourth = await desk.submit("d")
    ended, ending = watched(desk, fourth.id)
    await a_moment()
    await desk.queue.close()
    await asyncio.wait_for(asyncio.gather(waiting, ending), 60)
    assert waited[-1].state is JobState.FAILED, "it ran"
    assert ended[-1].state is JobState.QUEUED


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
