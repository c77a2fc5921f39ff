"""Drawn lengths are exact where claimed, repeatable, and distributed as stated."""

import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import Workload
from loadgen.load import lengths
from loadgen.load.lengths import PRESETS, Lengths, uniform
from loadgen.load.workload import Endpoint, RequestFactory

pairs = st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=20)


@given(pairs, st.integers(0, 10**9), st.integers(0, 10**6))
def test_a_choice_draws_only_what_is_there_and_the_same_for_the_same_seed(
    given_pairs: list[tuple[int, int]], index: int, seed: int
) -> None:
    made = lengths.choice(given_pairs)
    assert made.pair(index, seed) in given_pairs
    assert made.pair(index, seed) == lengths.choice(given_pairs).pair(index, seed)
    assert made.longest == max(p + o for p, o in given_pairs)
    assert made.mean_output == pytest.approx(statistics.fmean(o for _, o in given_pairs))


@given(pairs, st.integers(0, 1000))
def test_a_replay_gives_each_request_its_own_lengths(
    given_pairs: list[tuple[int, int]], seed: int
) -> None:
    made = lengths.in_order(given_pairs)
    assert [made.pair(i, seed) for i in range(len(given_pairs))] == given_pairs
    assert made.pair(len(given_pairs), seed) == given_pairs[0]


@given(st.lists(st.integers(1, 99), min_size=1), st.lists(st.integers(1, 99), min_size=1))
def test_independent_lengths_can_meet_at_their_longest(
    prompts: list[int], outputs: list[int]
) -> None:
    made = lengths.independent(prompts, outputs)
    prompt, output = made.pair(7, 3)
    assert prompt in prompts
    assert output in outputs
    assert made.longest == max(prompts) + max(outputs)


def correlation(first: list[float], second: list[float]) -> float:
    return statistics.correlation(first, second)


def test_draws_are_even_independent_of_each_other_and_of_the_request_before() -> None:
    made = lengths.independent(range(1, 101), range(1, 101))
    drawn = [made.pair(i, 5) for i in range(20_000)]
    prompts, outputs = ([float(v) for v in column] for column in zip(*drawn, strict=True))
    assert statistics.fmean(prompts) == pytest.approx(50.5, rel=0.01)
    assert statistics.pstdev(outputs) == pytest.approx(math.sqrt((100**2 - 1) / 12), rel=0.02)
    assert abs(correlation(prompts, outputs)) < 0.03
    assert abs(correlation(outputs[:-1], outputs[1:])) < 0.03
    other = [float(made.pair(i, 6)[0]) for i in range(20_000)]
    assert abs(correlation(prompts, other)) < 0.03, "seeds next to each other"


def test_recorded_pairs_stay_together() -> None:
    made = lengths.choice([(10, 1), (20, 2), (30, 3)])
    assert all(p == 10 * o for p, o in (made.pair(i, 0) for i in range(100)))


@pytest.mark.parametrize(("mean", "variation"), [(200, 0.5), (512, 1.0), (3000, 1.5)])
def test_a_lognormal_has_the_asked_mean_and_variation(mean: int, variation: float) -> None:
    values = lengths.lognormal_list(mean, variation)
    assert statistics.fmean(values) == pytest.approx(mean, rel=0.01)
    assert statistics.pstdev(values) / mean == pytest.approx(variation, rel=0.01)
    assert list(values) == sorted(values)


def test_a_lognormal_can_be_cut_off_and_does_not_fall_below_one() -> None:
    values = lengths.lognormal_list(3, 3.0, longest=10)
    assert (min(values), max(values)) == (1, 10)
    assert lengths.lognormal_list(64, 0.0) == (64,)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_lognormals_about_their_stated_means(name: str) -> None:
    made, stated = lengths.preset(name), PRESETS[name]
    assert made.mean_prompt == pytest.approx(stated.prompt_tokens, rel=0.2)
    assert made.mean_output == pytest.approx(stated.output_tokens, rel=0.2)
    assert max(made.prompts) <= stated.longest_prompt
    assert max(made.outputs) <= stated.longest_output
    assert name in str(made)
    assert stated.follows


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: lengths.preset("poetry"), "there are chat, summarise, code, reasoning"),
        (lambda: lengths.choice([]), "at least one"),
        (lambda: lengths.fixed(0, 5), "at least 1 token"),
        (lambda: Lengths((1, 2), (1,)), "as many prompts as outputs"),
        (lambda: Lengths((1, 2), (1, 2), blocks=((1,),)), "of every request or of none"),
        (lambda: lengths.lognormal_list(0.5, 1), "at least 1 token"),
        (lambda: lengths.lognormal_list(5, -1), "variation of at least 0"),
    ],
)
def test_impossible_lengths_are_refused(made: object, message: str) -> None:
    assert callable(made)
    with pytest.raises(ValueError, match=message):
        made()


def test_uniform_numbers_fill_the_unit_interval() -> None:
    values = [uniform(i, 1) for i in range(5000)]
    assert min(values) >= 0
    assert max(values) < 1
    assert statistics.fmean(values) == pytest.approx(0.5, abs=0.02)


@given(st.integers(0, 10_000))
def test_bodies_ask_for_the_drawn_lengths(index: int) -> None:
    load = Workload("m", lengths=lengths.independent([3, 70], [5, 9]), seed=4)
    request = RequestFactory(load).request(index)
    body = json.loads(request.body)
    assert len(body["prompt"]) == request.prompt_tokens
    assert body["max_tokens"] == request.output_tokens
    assert (request.prompt_tokens, request.output_tokens) == load.distribution.pair(index, 4)


def test_extra_is_merged_over_what_is_there() -> None:
    extra = {"guided_json": {"type": "object"}, "temperature": 0.7, "stream_options": {}}
    body = json.loads(RequestFactory(Workload("m", 4, 4, extra=extra)).body(0))
    assert body["guided_json"] == {"type": "object"}
    assert (body["temperature"], body["stream_options"]) == (0.7, {})


def test_chat_bodies_carry_one_message_of_words() -> None:
    request = RequestFactory(Workload("m", 6, 4, endpoint=Endpoint.CHAT)).request(0)
    body = json.loads(request.body)
    assert request.path == "chat/completions"
    assert [m["role"] for m in body["messages"]] == ["user"]
    assert len(body["messages"][0]["content"].split()) == 6
    assert "prompt" not in body


def test_a_model_name_with_quotes_is_still_json() -> None:
    assert json.loads(RequestFactory(Workload('a"b\\c', 2, 2)).body(0))["model"] == 'a"b\\c'


def test_shared_blocks_give_shared_prefixes_and_nothing_more() -> None:
    made = lengths.in_order([(1200, 5), (1300, 5), (1300, 5)], [(1, 2, 3), (1, 2, 9), (4, 5, 6)])
    factory = RequestFactory(Workload("m", lengths=made))
    one, two, three = (json.loads(factory.body(i))["prompt"] for i in range(3))
    assert (len(one), len(two), len(three)) == (1200, 1300, 1300)
    assert one[:1024] == two[:1024]
    assert one[1024:1200] != two[1024:1200]
    assert three[:512] != one[:512]
