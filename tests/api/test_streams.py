"""GET /jobs/{id}/events streams a job's state, changes and end, and leaves nothing behind."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from partitiond.api.streams import HEARTBEAT, changes
from partitiond.core.profile.jobs import Job, JobState, Progress
from tests.api.fake_service import FakeService


@pytest.fixture
def job_id(service: FakeService) -> str:
    progress = Progress("queued", "")
    service.store.put_job(Job("j", "profile", "a", JobState.QUEUED, "", "", progress))
    return "j"


async def test_a_job_is_told_from_now_to_its_end(service: FakeService, job_id: str) -> None:
    steps: list[dict[str, Any]] = [
        {},
        {"state": JobState.RUNNING},
        {"progress": Progress("sweep", "line\nbreak", 0.5, 7.0)},
        {"state": JobState.SUCCEEDED, "result": "p"},
    ]
    stream, told = changes(service.jobs.watch(job_id)), []
    for step in steps:
        service.jobs.change(job_id, **step)
        event = (await anext(stream)).decode()
        told.append(dict(line.split(": ", 1) for line in event.strip().splitlines()))
    jobs = [json.loads(one["data"]) for one in told]
    assert [
        (one["id"], one["event"], job["state"]) for one, job in zip(told, jobs, strict=True)
    ] == [
        ("1", "state", "queued"),
        ("2", "state", "running"),
        ("3", "progress", "running"),
        ("4", "state", "succeeded"),
    ]
    assert jobs[2]["progress"]["message"] == "line\nbreak"
    assert [event async for event in stream] == []
    assert service.jobs.watchers.count == 0


async def test_a_stream_ends_with_the_daemon(service: FakeService, job_id: str) -> None:
    stream = changes(service.jobs.watch(job_id))
    await anext(stream)
    service.jobs.watchers.close()
    assert [event async for event in stream] == []


async def test_a_client_that_comes_back_gets_the_job_as_it_is(
    http: httpx.AsyncClient, service: FakeService, job_id: str
) -> None:
    unknown = await http.get("/jobs/none/events")
    assert unknown.status_code == 404, "before any stream"
    assert unknown.headers["content-type"] == "application/problem+json"
    service.jobs.change(job_id, state=JobState.CANCELLED)
    for last, first in (("41", "42"), ("nonsense", "1"), ("9" * 40, "1"), ("-3", "1"), ("", "1")):
        answer = await http.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": last})
        assert answer.text.startswith(f"id: {first}\nevent: state\n")
        assert answer.text.count("data:") == 1
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"


async def test_a_silent_job_is_heard_by_heartbeats(service: FakeService, job_id: str) -> None:
    events = changes(service.jobs.watch(job_id), heartbeat_seconds=0.001)
    assert (await anext(events)).startswith(b"id: 1\n")
    assert await anext(events) == HEARTBEAT
    assert await anext(events) == HEARTBEAT
    service.jobs.change(job_id, state=JobState.CANCELLED)
    async with asyncio.timeout(60):
        while (event := await anext(events)) == HEARTBEAT:
            pass
    assert b'"state":"cancelled"' in event
    assert [event async for event in events] == []
    assert service.jobs.watchers.count == 0
