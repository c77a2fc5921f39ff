"""What follows a failure, and which time limit has passed, is decided by the phase of a request."""

from typing import Any

import pytest

from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.edge.phases import AfterFailure, Phase, after_failure, passed_limit
from partitiond.proxy.request.errors import FAILURE_STATUS

FIRST: dict[str, Any] = {"suspected": False, "unreached": False, "attempts": 1, "most": 2}
OPTIONS = ProxyOptions(first_token_timeout_seconds=10, between_tokens_timeout_seconds=20)
CASES = [
    ({}, AfterFailure.RETRY),
    ({"attempts": 2}, AfterFailure.FAIL),
    ({"attempts": 2, "most": 3}, AfterFailure.RETRY),
    ({"unreached": True}, AfterFailure.MOVE),
    ({"unreached": True, "attempts": 2}, AfterFailure.MOVE),
    # Of another host's request, its entry decides.
    ({"most": 0}, AfterFailure.FAIL),
    ({"most": 0, "unreached": True}, AfterFailure.FAIL),
    ({"suspected": True}, AfterFailure.REFUSE),
    ({"suspected": True, "unreached": True, "attempts": 2}, AfterFailure.REFUSE),
]


@pytest.mark.parametrize(("case", "following"), CASES)
def test_before_the_first_content_a_failed_attempt_may_be_repeated(
    case: dict[str, Any], following: AfterFailure
) -> None:
    for kind in FAILURE_STATUS.keys() - {"total_timeout"}:
        assert after_failure(Phase.ATTEMPTING, kind, **{**FIRST, **case}) is following
        # What the client has of its answer cannot be taken back.
        assert after_failure(Phase.ANSWERING, kind, **{**FIRST, **case}) is AfterFailure.FAIL


def test_nothing_is_repeated_once_the_request_has_had_all_its_time() -> None:
    assert after_failure(Phase.ATTEMPTING, "total_timeout", **FIRST) is AfterFailure.FAIL


@pytest.mark.parametrize(
    ("phase", "stream", "now", "passed"),
    [
        (Phase.ATTEMPTING, True, 15.0, ""),
        (Phase.ATTEMPTING, True, 15.1, "first_token_timeout"),
        (Phase.ATTEMPTING, False, 59.9, ""),
        (Phase.ANSWERING, True, 25.0, ""),
        (Phase.ANSWERING, True, 25.1, "between_tokens_timeout"),
        *((phase, True, 60.1, "total_timeout") for phase in (Phase.ATTEMPTING, Phase.ANSWERING)),
        (Phase.ATTEMPTING, False, 60.1, "total_timeout"),
    ],
)
def test_a_time_limit_is_that_of_the_phase(
    phase: Phase, stream: bool, now: float, passed: str
) -> None:
    """With a sign of work, or a piece of the answer, at 5, to be ended by 60."""
    found = passed_limit(phase, OPTIONS, now=now, deadline=60, progress_at=5, stream=stream)
    assert passed == found
