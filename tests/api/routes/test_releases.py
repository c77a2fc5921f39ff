"""/models/NAME/releases and /models/NAME/rollback show and revert releases."""

import httpx
import pytest


async def test_releases_are_listed_newest_first(http: httpx.AsyncClient) -> None:
    answer = await http.get("/models/a/releases")
    assert answer.status_code == 200
    assert [(r["version"], r["state"]) for r in answer.json()] == [(2, "serving"), (1, "replaced")]


@pytest.mark.parametrize("body", [None, {}, {"version": 1}])
async def test_going_back_answers_with_the_release_that_is_coming(
    http: httpx.AsyncClient, body: dict[str, int] | None
) -> None:
    answer = await http.post("/models/a/rollback", json=body)
    assert (answer.status_code, answer.json()["version"]) == (200, 1)
    assert answer.json()["state"] == "coming"


async def test_what_is_not_there_and_what_serves_already_are_refused(
    http: httpx.AsyncClient,
) -> None:
    assert (await http.get("/models/nobody/releases")).status_code == 404
    assert (await http.post("/models/a/rollback", json={"version": 9})).status_code == 404
    assert (await http.post("/models/a/rollback", json={"version": 2})).status_code == 409
    assert (await http.post("/models/a/rollback", json={"version": 0})).status_code == 422
