"""The benchmark of key limits counts what is beyond a limit."""

import dataclasses

import pytest

from bench.dispatch.key_limits import LIMITS, Case, Count, cases, run
from partitiond.core.dispatch.routing import KeyRates


@pytest.mark.soak
def test_two_hosts_are_within_a_request_of_one_proxy() -> None:
    case = Case(LIMITS[0], hosts=2, even=True, cut=False, seed=1)
    _, found = run(case)
    assert found.beyond <= 1
    assert found.early <= 0.05
    assert found.words > 0
    assert run(dataclasses.replace(case, cut=True))[1].beyond <= 1


def test_what_is_beyond_a_limit_is_counted() -> None:
    buckets = Count(KeyRates(requests_per_minute=60, tokens_per_minute=300))
    for _ in range(32):
        buckets.add(0.0)
    assert buckets.beyond == 2, "of tokens there are 30 requests' worth"
    running = Count(KeyRates(max_in_flight=1, token_budget=10))
    running.add(0.0)
    assert running.beyond == 0
    running.add(60.0)
    assert running.beyond == 1
    assert len(list(cases((2, 8), 3))) == len(LIMITS) * 2 * 3 * 3
