"""/keys makes, shows, changes, rotates and removes keys, and names errors in a body."""

import hashlib
from typing import Any

import httpx
import pytest

from partitiond.core.instants import unix_seconds
from partitiond.core.keys.record import KeyUse
from tests.controller.host import Host
from tests.machine import until

FULL: dict[str, Any] = {
    "label": "batch jobs",
    "models": ["a"],
    "routes": ["generate", "embed"],
    "expires_at": "2030-01-31T02:00:00+02:00",
    "priority": -1,
    "weight": 0.5,
    "limits": {"max_prompt_bytes": 10_000, "max_output_tokens": 64, "max_sequences": 4},
    "rates": {
        "requests_per_minute": 60,
        "tokens_per_minute": 10_000,
        "max_in_flight": 8,
        "token_budget": 1_000_000,
        "budget_period": "month",
    },
}


async def created(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    made = await http.post("/keys", json=body)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"/keys/{made.json()['record']['id']}"
    result: dict[str, Any] = made.json()
    return result


@pytest.fixture(autouse=True)
async def serves(started: Host) -> None:
    """The proxy has the routes; a key may name this model."""
    await started.register("a", auto=False)
    await until(lambda: bool(started.proxy.tables))


async def test_keys_are_shown_once(http: httpx.AsyncClient, host: Host) -> None:
    made = await created(http, label="app", models=["a"])
    listed = await http.get("/keys")
    assert listed.json() == [made["record"]]
    one = await http.get(f"/keys/{made['record']['id']}")
    assert one.json() == {"record": made["record"], "use": None}
    host.proxy.uses = {made["record"]["id"]: KeyUse(3, 120, 100, 1)}
    used = (await http.get(f"/keys/{made['record']['id']}")).json()["use"]
    assert used == {"requests": 3, "tokens": 120, "budget_used": 100, "in_flight": 1}
    assert made["key"] not in listed.text + one.text
    assert (await http.delete(f"/keys/{made['record']['id']}")).status_code == 204
    for method, path in (("DELETE", ""), ("GET", ""), ("PATCH", ""), ("POST", "/rotate")):
        answer = await http.request(method, f"/keys/none{path}", json={})
        assert answer.status_code == 404
        assert answer.json()["code"] == "not_found"


async def test_a_key_has_all_its_terms_and_none_by_default(http: httpx.AsyncClient) -> None:
    record = (await created(http, **FULL))["record"]
    expected = {**FULL, "expires_at": "2030-01-31T00:00:00.000Z"}
    assert {name: record[name] for name in FULL} == expected
    plain = (await http.post("/keys")).json()["record"]
    assert (plain["models"], plain["routes"], plain["expires_at"]) == ([], [], None)
    first, second = [
        unix_seconds((await created(http, expires_in_seconds=seconds))["record"]["expires_at"])
        for seconds in (60, 864_060)
    ]
    # A wall clock stands between the two: days, of which no pause makes a second.
    assert round((second - first) / 86_400) == 10


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"label": "x" * 201}, "label"),
    ({"label": "a\nb"}, "label"),
    ({"models": ["m", "m"]}, "twice"),
    ({"routes": ["admin"]}, "routes"),
    ({"expires_at": "soon"}, "expires_at"),
    ({"expires_in_seconds": 1e300}, "expires_in_seconds"),
    ({"expires_in_seconds": 60, "expires_at": "2030-01-31T00:00:00Z"}, "either"),
    ({"priority": 11}, "priority"),
    ({"weight": 0}, "weight"),
    ({"limits": {"max_output_tokens": -1}}, "max_output_tokens"),
    ({"rates": {"requests_per_minute": -1}}, "requests_per_minute"),
    ({"rates": {"token_budget": 10**18}}, "token_budget"),
    ({"sha256": "a" * 64}, "sha256"),
]


async def test_what_is_wrong_is_named_and_nothing_is_changed(http: httpx.AsyncClient) -> None:
    made = (await created(http, **FULL))["record"]
    for body, words in WRONG:
        refused = await http.post("/keys", json=body)
        patched = await http.patch(f"/keys/{made['id']}", json=body)
        for answer in (refused, patched):
            assert answer.status_code == 422, (body, answer.text)
            assert words in answer.json()["detail"], body
            assert len(answer.text) < 2000
    for part in ('"label": "\\ud800"', '"expires_at": "\\ud800"', '"models": ["\\ud800"]'):
        headers = {"Content-Type": "application/json"}
        half = await http.post("/keys", content=f"{{{part}}}", headers=headers)
        assert half.status_code == 422, part
    assert (await http.get("/keys")).json() == [made]


async def test_a_patch_changes_what_it_names_and_null_is_the_default(
    http: httpx.AsyncClient,
) -> None:
    made = await created(http, **FULL)
    path, before = f"/keys/{made['record']['id']}", made["record"]
    assert (await http.patch(path, json={})).json() == before

    changed = (await http.patch(path, json={"rates": {"token_budget": 5}, "weight": 2})).json()
    assert changed["rates"] == {**before["rates"], "token_budget": 5}
    assert changed == {**before, "rates": changed["rates"], "weight": 2.0}

    later = (await http.patch(path, json={"expires_in_seconds": 3600})).json()
    assert later["expires_at"] not in {before["expires_at"], None}

    body: dict[str, Any] = {"models": None, "routes": None, "expires_at": None, "limits": None}
    body |= {"rates": {"budget_period": None, "max_in_flight": None}}
    cleared = (await http.patch(path, json=body)).json()
    assert (cleared["models"], cleared["routes"], cleared["expires_at"]) == ([], [], None)
    assert set(cleared["limits"].values()) == {0}
    assert (cleared["rates"]["budget_period"], cleared["rates"]["max_in_flight"]) == ("day", 0)
    assert cleared["rates"]["requests_per_minute"] == 60
    assert (cleared["id"], cleared["sha256"]) == (before["id"], before["sha256"])


async def test_a_rotated_key_is_shown_once_under_the_same_id(http: httpx.AsyncClient) -> None:
    made = await created(http, label="app")
    path = f"/keys/{made['record']['id']}/rotate"
    answer = await http.post(path)
    assert answer.status_code == 200
    rotated = answer.json()
    assert rotated["key"] != made["key"]
    assert rotated["record"]["sha256"] == hashlib.sha256(rotated["key"].encode()).hexdigest()
    assert rotated["record"]["previous_sha256"] == made["record"]["sha256"]
    assert rotated["record"]["previous_until"] == "2026-01-01T01:00:00.000Z"
    at_once = (await http.post(path, json={"grace_seconds": 0})).json()["record"]
    assert (at_once["previous_sha256"], at_once["previous_until"]) == ("", None)
    for wrong in (1e9, None):
        assert (await http.post(path, json={"grace_seconds": wrong})).status_code == 422
