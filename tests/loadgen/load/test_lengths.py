"""Drawn lengths are exact where claimed, repeatable, and distributed as stated."""

import json
import math
import statistics
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import Endpoint, PromptKind, TargetError, Workload, parse_target
from loadgen.load import lengths
from loadgen.load.lengths import Lengths, uniform
from loadgen.load.workload import RequestFactory

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


def test_draws_are_even_independent_of_each_other_and_of_the_request_before() -> None:
    made = lengths.independent(range(1, 101), range(1, 101))
    assert made.longest == 200
    drawn = [made.pair(i, 5) for i in range(20_000)]
    prompts, outputs = ([float(v) for v in column] for column in zip(*drawn, strict=True))
    assert statistics.fmean(prompts) == pytest.approx(50.5, rel=0.01)
    assert statistics.pstdev(outputs) == pytest.approx(math.sqrt((100**2 - 1) / 12), rel=0.02)
    other = [float(made.pair(i, 6)[0]) for i in range(20_000)]  # of the seed next to it
    for one, two in ((prompts, outputs), (outputs[:-1], outputs[1:]), (prompts, other)):
        assert abs(statistics.correlation(one, two)) < 0.03
    values = [uniform(i, 1) for i in range(5000)]
    assert min(values) >= 0
    assert max(values) < 1
    assert statistics.fmean(values) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("mean", "variation"), [(200, 0.5), (512, 1.0), (3000, 1.5)])
def test_a_lognormal_has_the_asked_mean_and_variation(mean: int, variation: float) -> None:
    values = lengths.lognormal_list(mean, variation)
    assert statistics.fmean(values) == pytest.approx(mean, rel=0.01)
    assert statistics.pstdev(values) / mean == pytest.approx(variation, rel=0.01)
    assert list(values) == sorted(values)


def test_lengths_cut_off_and_impossible_ones() -> None:
    values = lengths.lognormal_list(3, 3.0, longest=10)
    assert (min(values), max(values)) == (1, 10)
    assert lengths.lognormal_list(64, 0.0) == (64,)
    for made, message in (
        (partial(lengths.preset, "poetry"), "there are chat, summarise, code, reasoning"),
        (partial(lengths.choice, []), "at least one"),
        (partial(lengths.fixed, 0, 5), "at least 1 token"),
        (partial(Lengths, (1, 2), (1,)), "as many prompts as outputs"),
        (partial(Lengths, (1, 2), (1, 2), blocks=((1,),)), "of every request or of none"),
        (partial(lengths.lognormal_list, 0.5, 1), "at least 1 token"),
        (partial(lengths.lognormal_list, 5, -1), "variation of at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            made()


def test_shared_blocks_give_shared_prefixes_and_nothing_more() -> None:
    made = lengths.in_order([(1200, 5), (1300, 6), (1300, 7)], [(1, 2, 3), (1, 2, 9), (4, 5, 6)])
    factory = RequestFactory(Workload("m", lengths=made))
    bodies = [json.loads(factory.body(i)) for i in range(3)]
    assert [body["max_tokens"] for body in bodies] == [5, 6, 7]
    one, two, three = (body["prompt"] for body in bodies)
    assert (len(one), len(two), len(three)) == (1200, 1300, 1300)
    assert one[:1024] == two[:1024]
    assert one[1024:1200] != two[1024:1200]
    assert three[:512] != one[:512]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 50), st.integers(0, 9))
def test_token_prompts_have_exactly_the_asked_length(
    prompt: int, output: int, index: int, seed: int
) -> None:
    load = Workload("m", prompt, output, seed=seed)
    text = RequestFactory(load).body(index)
    assert text == RequestFactory(load).body(index)
    body = json.loads(text)
    assert len(body["prompt"]) == prompt
    assert (body["max_tokens"], body["stream"], body["ignore_eos"]) == (output, True, True)
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def first(load: Workload) -> Any:
    """The first body, and where it is sent."""
    request = RequestFactory(load).request(0)
    return {"path": request.endpoint.path, **json.loads(request.body)}


def test_bodies_are_what_was_asked_for() -> None:
    one, other = (RequestFactory(Workload("m", seed=seed)) for seed in (1, 2))
    assert len({one.body(3), one.body(4), other.body(3)}) == 3
    small = first(Workload("m", 500, last_token_id=120))
    assert set(small["prompt"]) <= set(range(100, 121)), "a small vocabulary"
    text = first(Workload("m", 12, prompt_kind=PromptKind.TEXT, ignore_eos=False))
    assert len(text["prompt"].split()) == 12
    assert "ignore_eos" not in text
    extra = {"guided_json": {"type": "object"}, "temperature": 0.7, "stream_options": {}}
    assert first(Workload("m", 4, 4, extra=extra)).items() >= extra.items()
    chat = first(Workload("m", 6, 4, endpoint=Endpoint.CHAT))
    (message,) = chat["messages"]
    assert (chat["path"], message["role"]) == ("v1/chat/completions", "user")
    assert len(message["content"].split()) == 6
    assert "prompt" not in chat
    assert first(Workload('a"b\\c', 2, 2))["model"] == 'a"b\\c'
    with pytest.raises(ValueError, match="at least 1"):
        Workload("m", 0)


def test_addresses() -> None:
    for text, shown, path in (
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "/v1/completions"),
        ("http://host/v1/", "http://host:80", "/v1/completions"),
        ("https://host/base/v1", "https://host:443/base", "/base/v1/completions"),
        ("/run/e.sock", "unix:/run/e.sock", "/v1/completions"),
        ("unix:/run/e.sock", "unix:/run/e.sock", "/v1/completions"),
        ("unix:///run/e.sock", "unix:/run/e.sock", "/v1/completions"),
    ):
        target = parse_target(text)
        assert (str(target), target.path("v1/completions")) == (shown, path)
    for text in ("", "localhost:8000", "ftp://host", "http://host:port", "http://"):
        with pytest.raises(TargetError, match="Write http://"):
            parse_target(text)
