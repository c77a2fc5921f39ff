"""GET /jobs/{id}/events streams a job's state, changes and end, and leaves nothing behind."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from partitiond.api.streams import HEARTBEAT, changes
from partitiond.core.profile.jobs import Job, JobState, Progress
from tests.api.conftest import TOKEN
from tests.api.fake_service import FakeService


@pytest.fixture
async def url(app: FastAPI) -> AsyncIterator[str]:
    """The API on a real port, in this event loop."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await serving
    listener.close()


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=300) as made:
        yield made


async def queued(client: httpx.AsyncClient) -> str:
    await client.post("/models", json={"model": "opt-125m"})
    return str((await client.post("/models/opt-125m/profile")).json()["id"])


class Events:
    """Server-sent events of one answer, one at a time."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()

    async def next(self) -> tuple[str, str, dict[str, Any]] | None:
        """(id, name, job), or None at the end."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            if not line:
                if fields:
                    data = json.loads(fields["data"])
                    assert data["id"]
                    return fields["id"], fields["event"], data
                continue
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
        return None


async def test_a_job_is_told_from_now_to_its_end(
    client: httpx.AsyncClient, service: FakeService
) -> None:
    job_id = await queued(client)
    async with client.stream("GET", f"/jobs/{job_id}/events") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        events = Events(answer)
        first = await events.next()
        assert first is not None
        assert (first[0], first[1], first[2]["state"]) == ("1", "state", "queued")
        service.jobs.change(job_id, state=JobState.RUNNING)
        second = await events.next()
        service.jobs.change(job_id, progress=Progress("sweep", "line\nbreak", 0.5, 7.0))
        third = await events.next()
        service.jobs.change(job_id, state=JobState.SUCCEEDED, result="p")
        last = await events.next()
        assert second is not None
        assert third is not None
        assert last is not None
        assert [second[1], third[1], last[1]] == ["state", "progress", "state"]
        assert third[2]["progress"]["message"] == "line\nbreak"
        assert [second[0], third[0], last[0]] == ["2", "3", "4"]
        assert await events.next() is None
    assert service.jobs.watchers.count == 0


async def test_an_unknown_job_is_404_before_any_stream(client: httpx.AsyncClient) -> None:
    answer = await client.get("/jobs/none/events")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_watching_needs_the_token(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as anyone:
        assert (await anyone.get("/jobs/none/events")).status_code == 401


async def test_a_client_that_goes_leaves_nothing_behind(
    client: httpx.AsyncClient, service: FakeService
) -> None:
    job_id = await queued(client)
    for _ in range(5):
        async with client.stream("GET", f"/jobs/{job_id}/events") as answer:
            assert await Events(answer).next() is not None
            assert service.jobs.watchers.count == 1
        async with asyncio.timeout(60):
            while service.jobs.watchers.count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_the_end_of_the_daemon_ends_the_stream(
    client: httpx.AsyncClient, service: FakeService
) -> None:
    job_id = await queued(client)
    async with client.stream("GET", f"/jobs/{job_id}/events") as answer:
        events = Events(answer)
        await events.next()
        service.jobs.watchers.close()
        assert await events.next() is None


@pytest.mark.parametrize(
    ("last", "first"), [("41", "42"), ("nonsense", "1"), ("9" * 40, "1"), ("-3", "1"), ("", "1")]
)
async def test_a_client_that_comes_back_gets_the_job_as_it_is(
    client: httpx.AsyncClient, service: FakeService, last: str, first: str
) -> None:
    job_id = await queued(client)
    service.jobs.change(job_id, state=JobState.CANCELLED)
    answer = await client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": last})
    assert answer.text.startswith(f"id: {first}\nevent: state\n")
    assert answer.text.count("data:") == 1


async def test_a_silent_job_is_heard_by_heartbeats(service: FakeService) -> None:
    service.store.put_job(Job("j", "profile", "a", JobState.QUEUED, "", "", Progress("queued", "")))
    events = changes(service.jobs.watch("j"), heartbeat_seconds=0.01)
    assert (await anext(events)).startswith(b"id: 1\n")
    assert await anext(events) == HEARTBEAT
    assert await anext(events) == HEARTBEAT
    service.jobs.change("j", state=JobState.CANCELLED)
    async with asyncio.timeout(60):
        while (event := await anext(events)) == HEARTBEAT:
            pass
    assert b'"state":"cancelled"' in event
    assert [event async for event in events] == []
    assert service.jobs.watchers.count == 0
