"""What a host tells is read within bounds, and in words that this one knows."""

import pytest

from partitiond.proxy.peers.messages import (
    MOST_MESSAGE,
    Failed,
    PlacedAt,
    encode,
    read_failed,
    read_placed,
)

UNKNOWN = (502, "upstream_bad_response")
SAID = [
    (401, "invalid_api_key", UNKNOWN),  # whose key would that be?
    (200, '","event":"', UNKNOWN),
    (-1, "", UNKNOWN),
    (401, "queue_full", (429, "queue_full")),
    (200, "upstream_reset", (502, "upstream_reset")),
    (599, "request_quarantined", (422, "request_quarantined")),
    (503, "model_sleeping", (503, "model_asleep")),  # of the release before
]


@pytest.mark.parametrize(("status", "code", "expected"), SAID)
def test_a_host_says_why_there_is_no_answer_in_words_that_are_known(
    status: int, code: str, expected: tuple[int, str]
) -> None:
    """With their own status, and a message that is short; so a liar makes no series of metrics."""
    told = read_failed(encode(Failed(status, code, "x" * 20_000, 2**40)))
    assert (told.status, told.code) == expected
    assert len(told.message) <= MOST_MESSAGE
    assert told.retry_after_seconds == 3600


def test_a_place_is_read_as_releases_before_and_after_write_it() -> None:
    assert read_placed(b'["m-1"]') == PlacedAt("m-1", 0, 0.0)
    assert read_placed(b'["m-1",8,20.5,"more"]') == PlacedAt("m-1", 8, 20.5)
