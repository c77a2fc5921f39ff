"""Events of a change name the caller who asked for it; other events name no caller."""

import dataclasses
from collections.abc import AsyncIterator

import httpx
import pytest

from partitiond.api.app import create_app
from partitiond.core.actors import MAX_CHARACTERS
from partitiond.core.events import Event
from tests.api.conftest import TOKEN, asking
from tests.controller.host import Host, serving

MODEL = {
    "name": "a",
    "source": {"kind": "folder", "ref": "/models/a"},
    "workload": {"prompt_tokens": 64, "output_tokens": 32},
    "max_replicas": 1,
}


@dataclasses.dataclass
class Api:
    host: Host
    http: httpx.AsyncClient

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.host.store.events(limit=1000) if event.kind == kind]


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving(Host()) as host:
        async with asking(create_app(host.service, admin_token=TOKEN)) as http:
            http.headers["X-Partitiond-Actor"] = "ada@laptop"
            yield Api(host, http)


async def registered(api: Api) -> None:
    api.host.measured("a")
    answer = await api.http.post("/models", json=MODEL)
    assert answer.status_code == 201, answer.text
    await api.host.serves("a")


async def test_changes_name_who_asked(api: Api) -> None:
    await registered(api)
    await api.http.patch(
        "/models/a", json={"aliases": ["b"]}, headers={"X-Partitiond-Actor": "bob@desk"}
    )
    await api.http.post("/plan/apply", json={})
    assert [e.actor for e in api.events("model-registered")] == ["ada@laptop"]
    assert [e.actor for e in api.events("model-updated")] == ["bob@desk"]
    assert [e.message for e in api.events("model-updated")] == ["version 2: aliases."]
    assert [e.actor for e in api.events("plan-applied")][-1] == "ada@laptop"
    # What partitiond does by itself names nobody, and why.
    for kind in ("engine-starting", "engine-ready", "replica-starts"):
        assert {event.actor for event in api.events(kind)} == {""}
    (started,) = api.events("replica-starts")
    assert started.subject == "a-1"
    assert "the first plan with a" in started.message
    assert " on cpu (" in started.message
    del api.http.headers["X-Partitiond-Actor"]
    await api.http.delete("/models/a")
    (stopped,) = api.events("replica-stops")
    assert "a was removed" in stopped.message
    assert stopped.actor == "api@127.0.0.1"  # a caller without a name is known by its address


async def test_names_that_are_none_are_refused_before_anything_happens(api: Api) -> None:
    for name in ("a b", "x\x7f", "ö", "<script>", "a" * (MAX_CHARACTERS + 1)):
        header = {b"X-Partitiond-Actor": name.encode("latin-1")}
        answer = await api.http.post("/models", json=MODEL, headers=header)
        assert answer.status_code == 422
        assert "is no name of an actor" in answer.json()["detail"]
    assert api.events("model-registered") == []


async def test_somebody_at_the_dashboard_is_who_they_logged_in_as(api: Api) -> None:
    given = {"token": TOKEN, "name": "Grace Hopper"}
    login = await api.http.post("/ui/session", json=given, headers={"Authorization": ""})
    assert login.is_success, login.text
    api.http.headers["Authorization"] = f"Bearer {login.json()['session']}"
    answer = await api.http.post("/models", json={**MODEL, "auto": False})
    assert answer.status_code == 201, answer.text
    assert [e.actor for e in api.events("model-registered")] == ["Grace_Hopper@dashboard"]
