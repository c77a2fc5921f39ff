"""GET /jobs/{id}/events streams a job's state, changes and end, and leaves nothing behind."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from partitiond.api.streams import HEARTBEAT, changes
from partitiond.core.profile.jobs import Job, JobState, Progress
from tests.api.conftest import TOKEN
from tests.api.fake_service import FakeService
from tests.controller.fakes import a_moment


@pytest.fixture
def job_id(service: FakeService) -> str:
    progress = Progress("queued", "")
    service.store.put_job(Job("j", "profile", "a", JobState.QUEUED, "", "", progress))
    return "j"


class Stream:
    """A request for a job's events and what its client is sent, as the server's side sees both."""

    def __init__(self, app: FastAPI, job_id: str) -> None:
        self.headers: dict[str, str] = {}
        self.status = 0
        self._sent: asyncio.Queue[bytes] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._asked = False
        headers = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"host", b"daemon")]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": f"/jobs/{job_id}/events",
            "raw_path": f"/jobs/{job_id}/events".encode(),
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("daemon", 80),
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            await self._sent.put(message.get("body", b""))

    async def next(self) -> tuple[str, str, dict[str, Any]] | None:
        """(id, name, job) of the next event; None at the end."""
        async with asyncio.timeout(60):
            text = (await self._sent.get()).decode()
        if not text:
            return None
        fields = dict(line.split(": ", 1) for line in text.strip().splitlines())
        return fields["id"], fields["event"], json.loads(fields["data"])

    async def leave(self) -> None:
        self._gone.set()
        async with asyncio.timeout(60):
            await self.task


async def test_a_job_is_told_from_now_to_its_end(
    app: FastAPI, service: FakeService, job_id: str
) -> None:
    stream = Stream(app, job_id)
    told = [await stream.next()]
    assert stream.status == 200
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.headers["cache-control"] == "no-store"
    steps: list[dict[str, Any]] = [
        {"state": JobState.RUNNING},
        {"progress": Progress("sweep", "line\nbreak", 0.5, 7.0)},
        {"state": JobState.SUCCEEDED, "result": "p"},
    ]
    for step in steps:
        service.jobs.change(job_id, **step)
        told.append(await stream.next())
    assert [(one[0], one[1], one[2]["state"]) for one in told if one] == [
        ("1", "state", "queued"),
        ("2", "state", "running"),
        ("3", "progress", "running"),
        ("4", "state", "succeeded"),
    ]
    assert told[2] is not None
    assert told[2][2]["progress"]["message"] == "line\nbreak"
    assert await stream.next() is None
    await stream.leave()
    assert service.jobs.watchers.count == 0


async def test_a_client_that_goes_leaves_nothing_behind(
    app: FastAPI, service: FakeService, job_id: str
) -> None:
    for _ in range(3):
        stream = Stream(app, job_id)
        assert await stream.next() is not None
        assert service.jobs.watchers.count == 1
        await stream.leave()
        await a_moment()
        assert service.jobs.watchers.count == 0
    stream = Stream(app, job_id)
    await stream.next()
    service.jobs.watchers.close()  # the daemon ends
    assert await stream.next() is None
    await stream.leave()


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
