"""A request's expected use follows from its size and from what was learned of its model."""

import pytest

from partitiond.core.dispatch.admission import FIRST_TOKENS_PER_BYTE, Cost, OutputP90
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute
from partitiond.core.keys.charging import Estimate
from partitiond.proxy.dispatch.estimates import estimates_of
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.request.parts import ParsedRequest, Size


def model(longest: int = 0) -> LiveModel:
    found = LiveModel(ModelRoute("m", ModelAvailability.SERVING, "m"))
    found.output_p90 = OutputP90(100.0)
    found.max_model_len = longest
    return found


def estimated(
    size: Size, *, choices: int = 1, longest: int = 0, key: str = "key-1"
) -> tuple[Cost, Estimate]:
    request = ParsedRequest("m", False, False, None, max(1, size.prompts) * choices, size, "")
    return estimates_of(request, model(longest), key)


def test_bytes_count_by_the_ratio_and_token_ids_as_they_are() -> None:
    assert estimated(Size(1, 1000, 7, 20))[1] == Estimate(int(1000 * FIRST_TOKENS_PER_BYTE) + 7, 20)


@pytest.mark.parametrize(("limit", "output"), [(20, 20), (500, 500), (0, 0), (None, 100)])
def test_the_output_is_the_limit_and_without_one_the_usual_most(
    limit: int | None, output: int
) -> None:
    cost, estimate = estimated(Size(1, 0, 50, limit))
    assert estimate == Estimate(50, output)
    assert cost.kv_tokens == 50 + min(output, 100)  # most write no more than that


def test_each_choice_of_each_prompt_writes() -> None:
    cost, estimate = estimated(Size(3, 0, 30, 20), choices=2)
    assert estimate == Estimate(30, 6 * 20, 6)
    assert cost == Cost(6, 6 * (10 + 20))


def test_nothing_is_longer_than_the_context() -> None:
    """The context is each prompt's own, with the output beside it."""
    assert estimated(Size(1, 0, 900, 200), longest=1000)[1] == Estimate(900, 100)
    assert estimated(Size(1, 0, 5000, 200), longest=1000)[1] == Estimate(1000, 0)
    assert estimated(Size(4, 0, 1600, 700), longest=1000)[1] == Estimate(1600, 4 * 600, 4)
    assert estimated(Size(4, 0, 9000, 700), longest=1000)[1].prompt_tokens == 4000


def test_the_ratio_is_the_keys_own() -> None:
    here = model()
    here.ratios.observe("key-1", 65_536, 65_536)
    size = Size(1, 1000, 0, 10)
    request = ParsedRequest("m", False, False, None, 1, size, "")
    assert estimates_of(request, here, "key-1")[1] == Estimate(1000, 10)
    assert estimates_of(request, here, "key-2")[1] == Estimate(300, 10)


@pytest.mark.parametrize(
    ("asked", "limit", "longest", "each"),
    [(1, 20, 0, 1), (5, 20, 0, 5), (5, 3, 1000, 3), (5, 0, 0, 5), (5000, None, 1000, 1000),
     (5000, None, 0, 5000)],
)  # fmt: skip
def test_an_event_holds_what_was_asked_but_no_more_than_can_be_written(
    asked: int, limit: int | None, longest: int, each: int
) -> None:
    request = ParsedRequest("m", True, False, None, 2, Size(1, 0, 10, limit), "", asked)
    estimate = estimates_of(request, model(longest), "key-1")[1]
    assert (estimate.sequences, estimate.stream_interval) == (2, each)
