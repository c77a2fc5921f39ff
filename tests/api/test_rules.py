"""Placement rules and percentiles are set, changed, removed and refused through the API."""

from typing import Any

import httpx
import pytest

DUMMY = {"model": "opt-125m", "weights": "dummy"}
RULES: dict[str, Any] = {
    "avoid": ["bert"],
    "near": ["embedder"],
    "only_on": ["a100-80gb", "node-1"],
    "survive": "host",
    "survive_share": 0.5,
    "priority": 1,
}


async def test_rules_and_percentile_are_kept_as_given(http: httpx.AsyncClient) -> None:
    demand = {"req_per_s": 4, "percentile": 99, "window_seconds": 30}
    answer = await http.post(
        "/models", json=DUMMY | {"rules": RULES, "demand": demand, "isolation": "hardware"}
    )
    assert answer.status_code == 201
    spec = answer.json()["spec"]
    assert spec["rules"] == RULES
    assert spec["isolation"] == "hardware"
    assert (spec["demand"]["percentile"], spec["demand"]["window_seconds"]) == (99, 30)
    again = await http.post("/models", json=spec)
    assert again.status_code == 200


async def test_a_patch_changes_one_rule_and_null_takes_it_back(http: httpx.AsyncClient) -> None:
    await http.post("/models", json=DUMMY | {"rules": RULES})
    patch: dict[str, Any] = {"rules": {"avoid": [], "survive": None, "priority": -1}}
    answer = await http.patch(
        "/models/opt-125m", json=patch, headers={"Content-Type": "application/merge-patch+json"}
    )
    assert answer.status_code == 200, answer.text
    rules = answer.json()["spec"]["rules"]
    assert rules == RULES | {"avoid": [], "survive": None, "priority": -1}


async def test_a_group_is_set_changed_and_taken_back(http: httpx.AsyncClient) -> None:
    answer = await http.post("/models", json=DUMMY | {"isolation_group": "blue"})
    assert answer.json()["spec"]["isolation_group"] == "blue"
    for group, then in (("green", "green"), (None, ""), ("blue", "blue"), ("", "")):
        answer = await http.patch("/models/opt-125m", json={"isolation_group": group})
        assert answer.json()["spec"]["isolation_group"] == then


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"isolation_group": "Blue"}, "1 to 12 lower-case letters"),
        ({"rules": {"survive": "planet"}}, "rules.survive"),
        ({"rules": {"survive": "host", "survive_share": 0}}, "survive_share"),
        ({"rules": {"priority": 9}}, "priority"),
        ({"rules": {"avoid": ["a"], "near": ["a"]}}, "both in avoid and in near"),
        ({"rules": {"avoid": ["opt-125m"]}}, "names itself in avoid"),
        ({"rules": {"near": [""]}}, "list of names"),
        ({"rules": {"spread": "host"}}, "rules.spread"),
        ({"demand": {"req_per_s": 1, "percentile": 0.99}}, "Write 99"),
        ({"demand": {"percentile": 99}}, "percentile needs a demand"),
    ],
)
async def test_senseless_rules_are_refused_with_words(
    http: httpx.AsyncClient, body: dict[str, Any], words: str
) -> None:
    answer = await http.post("/models", json=DUMMY | body)
    assert answer.status_code in {400, 422}
    assert words in answer.text
    assert (await http.get("/models")).json() == []
