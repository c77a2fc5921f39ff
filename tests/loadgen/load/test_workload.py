"""Request bodies, arrivals and addresses are made as asked."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import PromptKind, TargetError, Workload, constant, parse_target, poisson
from loadgen.load.arrivals import until
from loadgen.load.workload import RequestFactory


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 50), st.integers(0, 9))
def test_token_prompts_have_exactly_the_asked_length(
    prompt: int, output: int, index: int, seed: int
) -> None:
    body = json.loads(RequestFactory(Workload("m", prompt, output, seed=seed)).body(index))
    assert len(body["prompt"]) == prompt
    assert (body["max_tokens"], body["stream"], body["ignore_eos"]) == (output, True, True)
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_bodies_are_the_same_for_the_same_seed_and_differ_from_request_to_request() -> None:
    one, two = RequestFactory(Workload("m", seed=1)), RequestFactory(Workload("m", seed=1))
    other = RequestFactory(Workload("m", seed=2))
    assert one.body(3) == two.body(3)
    assert len({one.body(3), one.body(4), other.body(3)}) == 3


def test_token_ids_stay_below_a_small_vocabulary() -> None:
    body = json.loads(RequestFactory(Workload("m", 500, last_token_id=120)).body(0))
    assert set(body["prompt"]) <= set(range(100, 121))


def test_text_prompts_are_words() -> None:
    load = Workload("m", 12, prompt_kind=PromptKind.TEXT, ignore_eos=False)
    body = json.loads(RequestFactory(load).body(0))
    assert len(body["prompt"].split()) == 12
    assert "ignore_eos" not in body


def test_lengths_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Workload("m", 0)


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert list(until(constant(4), 1.0)) == [0.0, 0.25, 0.5, 0.75]


@given(st.floats(0.5, 500), st.integers(0, 1000))
def test_poisson_arrivals_grow_and_repeat_for_the_same_seed(rate: float, seed: int) -> None:
    first = list(itertools.islice(poisson(rate, seed), 20))
    assert first == list(itertools.islice(poisson(rate, seed), 20))
    assert first == sorted(first)


def test_poisson_arrivals_come_at_the_asked_rate() -> None:
    assert sum(1 for _ in until(poisson(100, seed=5), 100)) == pytest.approx(10_000, rel=0.05)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_rates_must_be_above_zero(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        next(poisson(rate))


@pytest.mark.parametrize(
    ("text", "shown", "path"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "/v1/completions"),
        ("http://host/v1/", "http://host:80", "/v1/completions"),
        ("https://host/base/v1", "https://host:443/base", "/base/v1/completions"),
        ("/run/e.sock", "unix:/run/e.sock", "/v1/completions"),
        ("unix:/run/e.sock", "unix:/run/e.sock", "/v1/completions"),
        ("unix:///run/e.sock", "unix:/run/e.sock", "/v1/completions"),
    ],
)
def test_addresses(text: str, shown: str, path: str) -> None:
    target = parse_target(text)
    assert (str(target), target.path("completions")) == (shown, path)


@pytest.mark.parametrize(
    "text", ["", "localhost:8000", "ftp://host", "http://host:port", "http://"]
)
def test_what_is_no_address_says_which_forms_are(text: str) -> None:
    with pytest.raises(TargetError, match="Write http://"):
        parse_target(text)
