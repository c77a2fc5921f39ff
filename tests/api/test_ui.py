"""The dashboard's files, and the session that stands for the admin token."""

import httpx
import pytest
from fastapi import FastAPI

from partitiond.api.sessions import MAX_SESSIONS, SESSION_SECONDS, Sessions
from tests.api.conftest import TOKEN

UI = {"X-Partitiond-UI": "1"}


@pytest.fixture
async def browser(app: FastAPI) -> httpx.AsyncClient:
    """A client that keeps cookies and knows no token."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://daemon")


async def log_in(
    browser: httpx.AsyncClient, token: str = TOKEN, name: str = "ada"
) -> httpx.Response:
    return await browser.post("/ui/session", json={"token": token, "name": name})


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/app.js", "/ui/style.css"])
async def test_files_need_no_token_and_let_nothing_in(
    browser: httpx.AsyncClient, path: str
) -> None:
    answer = await browser.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_bare_address_leads_to_the_dashboard(
    browser: httpx.AsyncClient, method: str
) -> None:
    for headers in ({}, UI):
        answer = await browser.request(method, "/", headers=headers)
        assert (answer.status_code, answer.headers["location"]) == (307, "/ui")


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


async def test_a_file_that_is_known_already_is_not_sent_again(browser: httpx.AsyncClient) -> None:
    first = await browser.get("/ui/app.js")
    again = await browser.get("/ui/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["__init__.py", "..%2Fsettings.py", "none.js", "%2e%2e/app.py"])
async def test_no_other_file_is_given_out(browser: httpx.AsyncClient, name: str) -> None:
    assert (await browser.get(f"/ui/{name}")).status_code == 404


async def test_the_cookie_stands_for_the_token(browser: httpx.AsyncClient) -> None:
    assert (await browser.get("/models", headers=UI)).status_code == 401
    assert (await browser.get("/ui/session")).json() == {"logged_in": False}
    answer = await log_in(browser)
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert (await browser.get("/models", headers=UI)).status_code == 200
    assert (await browser.get("/ui/session", headers=UI)).json()["name"] == "ada"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_the_cookie_alone_counts_for_nothing(browser: httpx.AsyncClient, method: str) -> None:
    """What a page of another site could make a browser send."""
    await log_in(browser)
    answer = await browser.request(method, "/models/a" if method == "DELETE" else "/models")
    assert answer.status_code == 401
    assert "X-Partitiond-UI" in answer.json()["detail"]


async def test_a_wrong_token_gets_no_cookie(browser: httpx.AsyncClient) -> None:
    answer = await log_in(browser, token="guessed-by-somebody")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert (await browser.get("/models", headers=UI)).status_code == 401


async def test_who_logs_out_is_out(browser: httpx.AsyncClient) -> None:
    await log_in(browser)
    kept = dict(browser.cookies)
    assert (await browser.delete("/ui/session", headers=UI)).status_code == 204
    for name, value in kept.items():
        browser.cookies.set(name, value)
    assert (await browser.get("/models", headers=UI)).status_code == 401


async def test_a_form_of_another_site_cannot_log_in(browser: httpx.AsyncClient) -> None:
    answer = await browser.post("/ui/session", data={"token": TOKEN})
    assert answer.status_code == 422


async def test_a_wrong_token_beside_a_good_cookie_is_refused(browser: httpx.AsyncClient) -> None:
    await log_in(browser)
    headers = UI | {"Authorization": "Bearer something-else-entirely"}
    assert (await browser.get("/models", headers=headers)).status_code == 401


class TestSessions:
    def test_a_session_ends_after_its_time(self) -> None:
        now = [0.0]
        sessions = Sessions(TOKEN, lambda: now[0])
        value = sessions.log_in(TOKEN, "ada")
        assert value is not None
        now[0] = SESSION_SECONDS - 1
        assert sessions.find(value) is not None
        now[0] = SESSION_SECONDS
        assert sessions.find(value) is None

    def test_there_are_only_so_many(self) -> None:
        sessions = Sessions(TOKEN, lambda: 0.0)
        values = [sessions.log_in(TOKEN, "") for _ in range(MAX_SESSIONS + 1)]
        found = [value is not None and sessions.find(value) is not None for value in values]
        assert found == [False] + [True] * MAX_SESSIONS
