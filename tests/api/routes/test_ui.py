"""The dashboard's files are served, and its session replaces the admin token."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from partitiond.api.routes.ui_endpoint import try_prompt
from partitiond.api.sessions import MAX_SESSIONS, SESSION_SECONDS, DashboardSessions
from tests.api.conftest import TOKEN, asking
from tests.controller.host import Host
from tests.controller.samples import cpu
from tests.hosts.fleet import HEAD


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client that keeps cookies, as a browser does, and knows no token."""
    async with asking(app, token="") as client:
        yield client


async def log_in(
    browser: httpx.AsyncClient, token: str = TOKEN, name: str = "ada"
) -> httpx.Response:
    return await browser.post("/ui/session", json={"token": token, "name": name})


async def session_of(browser: httpx.AsyncClient) -> dict[str, str]:
    """What a page sends once it is logged in."""
    return {"Authorization": f"Bearer {(await log_in(browser)).json()['session']}"}


async def test_files_need_no_token_and_let_nothing_in(browser: httpx.AsyncClient) -> None:
    etag = (await browser.get("/ui/app.js")).headers["etag"]
    for path in ("/ui", "/ui/", "/ui/app.js", "/ui/style.css"):
        answer = await browser.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        for part in ("default-src 'none'", "script-src 'self';", "frame-ancestors 'none'"):
            assert part in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    again = await browser.get("/ui/app.js", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b""), "it is known already"
    for method in ("GET", "HEAD"):
        answer = await browser.request(method, "/")
        assert (answer.status_code, answer.headers["location"]) == (307, "/ui")
    for name in ("__init__.py", "..%2Fsettings.py", "none.js", "%2e%2e/app.py"):
        assert (await browser.get(f"/ui/{name}")).status_code == 404, "no other file is given out"


async def test_programs_get_the_index_or_are_told_why_not(browser: httpx.AsyncClient) -> None:
    index = await browser.get("/", headers={"Authorization": f"Bearer {TOKEN}"})
    assert index.json()["name"] == "partitiond"
    for path, method, headers in (
        ("/", "GET", {"Authorization": "Bearer wrong"}),
        ("/", "GET", {"Authorization": ""}),
        ("/", "POST", {}),
        ("/models", "GET", {}),
    ):
        refused = await browser.request(method, path, headers=headers)
        assert refused.status_code == 401, (method, path)
        assert "admin-token" in refused.json()["hint"]


async def test_the_session_stands_for_the_token(browser: httpx.AsyncClient) -> None:
    assert (await browser.get("/models")).status_code == 401
    assert (await browser.get("/ui/session")).json() == {"logged_in": False}
    answer = await log_in(browser)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert TOKEN not in answer.text
    page = {"Authorization": f"Bearer {answer.json()['session']}"}
    assert (await browser.get("/models", headers=page)).status_code == 200
    assert (await browser.get("/ui/session", headers=page)).json()["name"] == "ada"
    for path in ("/ui", "/ui/session", "/models"):
        assert "set-cookie" not in (await browser.get(path, headers=page)).headers, path
    assert dict(browser.cookies) == {}, "browsers send cookies to each port of a host"


async def test_no_cookie_and_no_address_carries_the_session(browser: httpx.AsyncClient) -> None:
    """Another program on this host could make a browser send a cookie; addresses are logged."""
    value = (await session_of(browser))["Authorization"].removeprefix("Bearer ")
    for name in ("session", "partitiond_session", "__Host-session", "token"):
        for secret in (value, TOKEN):
            headers = {"Cookie": f"{name}={secret}", "X-Partitiond-UI": "1"}
            assert (await browser.get("/models", headers=headers)).status_code == 401
            told = await browser.get("/ui/session", headers=headers)
            assert told.json() == {"logged_in": False}
            assert (await browser.get(f"/models?{name}={secret}")).status_code == 401


async def test_a_wrong_token_begins_no_session(browser: httpx.AsyncClient) -> None:
    answer = await log_in(browser, token="guessed-by-somebody")
    assert answer.status_code == 401
    assert "session" not in answer.json()
    form = await browser.post("/ui/session", data={"token": TOKEN})
    assert form.status_code == 422, "a form of another site cannot log in"


async def test_who_logs_out_is_out(browser: httpx.AsyncClient) -> None:
    page, other = await session_of(browser), await session_of(browser)
    for _ in range(2):
        assert (await browser.delete("/ui/session", headers=page)).status_code == 204
        assert (await browser.get("/models", headers=page)).status_code == 401
    assert (await browser.get("/models", headers=other)).status_code == 200


async def test_no_page_of_another_origin_may_send_the_header(browser: httpx.AsyncClient) -> None:
    """Its browser asks first, and nobody says yes."""
    for path in ("/models", "/ui/session"):
        answer = await browser.options(
            path,
            headers={
                "Origin": "http://localhost:9999",
                "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": "authorization",
            },
        )
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_session_ends_after_its_time_and_there_are_only_so_many() -> None:
    now = [0.0]
    sessions = DashboardSessions(TOKEN, lambda: now[0])
    values = [sessions.log_in(TOKEN, "ada") for _ in range(MAX_SESSIONS + 1)]
    for now[0] in (0.0, SESSION_SECONDS - 1, SESSION_SECONDS):
        found = [value is not None and sessions.find(value) is not None for value in values]
        assert found == [False] + [now[0] < SESSION_SECONDS] * MAX_SESSIONS


async def test_the_last_requests_and_an_engine_s_log_are_for_who_is_logged_in(
    app: FastAPI, started: Host, browser: httpx.AsyncClient, tmp_path: Path
) -> None:
    for path in ("/ui/requests/a", "/ui/log/a-1"):
        assert (await browser.get(path)).status_code == 401
    assert (await browser.post("/ui/try/chat", json={})).status_code == 401
    session = await session_of(browser)
    app.state.endpoint_log = log = tmp_path / "proxy.log"
    assert (await browser.get("/ui/requests/a", headers=session)).json() == []
    lines = [{"event": event, "model": m, "n": n} for n, (event, m) in enumerate(
        [("request", "a"), ("request", "b"), ("attempt_failed", "a"), ("request", "a")]
    )]  # fmt: skip
    log.write_text(
        "".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines)
        + '{"event":"request","mod\na traceback\n'
    )
    found = (await browser.get("/ui/requests/a", headers=session)).json()
    assert [line["n"] for line in found] == [3, 0], "the newest first"
    answer = await browser.get("/ui/log/a-1", headers=session)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), "it has none here"
    started.runner.log_path = str(log)
    await started.serve("a", max_replicas=1)
    for host, status in ((cpu().host, 200), ("another", 404)):
        started.fleet.hosts = (dataclasses.replace(HEAD, name=host),)
        shown = await browser.get("/ui/log/a-1", headers=session)
        assert (shown.status_code, "a traceback" in shown.text) == (status, status == 200)


async def test_a_trial_leaves_an_endpoint_that_is_silent_and_tells_of_one_that_is_gone(
    app: FastAPI,
) -> None:
    served = asyncio.Queue[tuple[Any, ...]]()
    stop = asyncio.get_running_loop().create_future()
    request = Request({"type": "http", "app": app, "headers": []}, lambda: stop)
    request._body = b"{}"
    silent = await asyncio.start_server(lambda *ends: served.put_nowait(ends), "127.0.0.1", 0)
    async with silent:
        app.state.endpoint_url = "http://127.0.0.1:{1}".format(*silent.sockets[0].getsockname())
        trial = asyncio.create_task(try_prompt("chat", request, "caf\xe9"))
        reader, writer = await served.get()
        assert b"Bearer caf\xe9\r\n" in await reader.readuntil(b"\r\n\r\n")
        stop.set_result({"type": "http.disconnect"})
        assert (await trial).status_code == 499
        await reader.read()  # to its end
        writer.close()
    request._receive = asyncio.get_running_loop().create_future
    gone = await try_prompt("chat", request)
    assert (gone.status_code, b"does not answer" in gone.body) == (502, True)
