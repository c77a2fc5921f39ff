"""Jobs say what they measure, and what models wait for."""

import dataclasses
from typing import Any

import pytest

from partitiond.core.profile.jobs import (
    AROUND_SECONDS,
    ELSEWHERE,
    FIRST_LOOK_SECONDS,
    IN_FULL,
    NOT_MEASURED,
    AwaitedLook,
    Job,
    JobState,
    Progress,
    awaited_by_all,
    awaited_looks,
    measured_by,
)


def job(
    name: str, model: str, reason: str = NOT_MEASURED, left: float | None = None, **params: Any
) -> Job:
    progress = Progress("measuring", "", None, left)
    given = tuple(params.items())
    return Job(name, "profile", model, JobState.RUNNING, "", "", progress, given, reason=reason)


def test_a_model_waits_for_its_first_look_and_the_plan_after_the_last_one_and_for_a_start() -> None:
    each = FIRST_LOOK_SECONDS + AROUND_SECONDS
    now = [job("1", "a", left=20.0), job("2", "b", IN_FULL)]
    then = [job("3", "c"), job("4", "a", variant="x"), job("5", "d"), job("8", "d")]
    looks = awaited_looks(now, then)
    seconds = AROUND_SECONDS + 20.0 + 3 * each
    ids = {"a": "1", "c": "3", "d": "5"}
    assert looks == {model: AwaitedLook(name, seconds) for model, name in ids.items()}
    side_by_side = awaited_looks([*now, job("7", "f")], then)
    assert {look.seconds for look in side_by_side.values()} == {AROUND_SECONDS + 20.0 + 2 * each}
    assert awaited_looks([], then)["d"].seconds == AROUND_SECONDS + 3 * each
    assert awaited_looks(now[1:], [job("6", "e", ""), job("9", "g", ELSEWHERE)]) == {}
    last = dataclasses.replace(looks["d"], measures="others")
    assert awaited_by_all(looks, ["a", "measured"]) == {**looks, "measured": last}
    assert awaited_by_all({}, ["measured"]) == {}


@pytest.mark.parametrize(
    ("params", "reason", "words"),
    [
        ({"cores": "1"}, NOT_MEASURED, "1 core, first look"),
        ({"cores": "2", "variant": "fp8"}, IN_FULL, "2 cores, fp8"),
        ({"sm_percent": "10"}, "", "10 % of the SMs"),
        ({"mig_profile": "1g.5gb", "kv_cache_dtype": "fp8"}, "", "1g.5gb, KV fp8"),
        ({"device_id": "GPU-1"}, IN_FULL, "whole"),
    ],
)
def test_a_job_says_what_it_measures(params: dict[str, Any], reason: str, words: str) -> None:
    assert measured_by(job("1", "a", reason, **params)) == words
