"""Names, default parameters and limits of a model's requests are accepted or refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch.routing import RequestLimits
from partitiond.core.errors import SpecError
from partitiond.core.model.request_options import check_defaults, defaults_json
from partitiond.core.model.spec import Demand, ModelSource, ModelSpec, SourceKind

SOURCE = ModelSource(SourceKind.HUB, "org/model")


def spec(**changes: Any) -> ModelSpec:
    return ModelSpec("m", SOURCE, **changes)


@pytest.mark.parametrize("alias", ["gpt-4o-mini", "org/Model-1.5B", "llama3.2:1b", "A", "x" * 128])
def test_names_that_clients_of_other_servers_send_can_be_aliases(alias: str) -> None:
    assert spec(aliases=(alias,)).aliases == (alias,)


@pytest.mark.parametrize(
    "alias",
    ["", "a b", "a\n", "/a", "a/", "a/b/c", "../a", "a/..", "a//b", "\u00e4", "-a", "x" * 129,
     "a?b", "a%2fb", "\x1b[2J"],
)  # fmt: skip
def test_what_no_name_is_cannot_be_an_alias(alias: str) -> None:
    with pytest.raises(SpecError) as refused:
        spec(aliases=(alias,))
    assert refused.value.message.isprintable()
    assert refused.value.hint


@pytest.mark.parametrize(
    "aliases", [("m",), ("a", "a"), tuple(f"a{n}" for n in range(33))], ids=str
)
def test_aliases_are_other_names_each_once_and_not_many(aliases: tuple[str, ...]) -> None:
    with pytest.raises(SpecError):
        spec(aliases=aliases)


def test_a_name_with_a_line_break_is_no_name() -> None:
    with pytest.raises(SpecError, match="no model name"):
        ModelSpec("m\n", SOURCE)


@pytest.mark.parametrize(
    "defaults",
    [
        {"temperature": 0.2, "top_p": 1, "stop": ["\n", "User:"], "logprobs": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_parameters_can_have_defaults(defaults: dict[str, Any]) -> None:
    assert json.loads(defaults_json(spec(request_defaults=defaults).request_defaults)) == defaults


@pytest.mark.parametrize(
    "defaults",
    [
        {"model": "x"},
        {"prompt": "x"},
        {"messages": []},
        {"stream": True},
        {"input": "x"},
        {"user": "x"},
        {"temperature": None},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"seed": 2**64},
        {"tools": [{"type": "function"}]},
        {"a": {"b": {"c": 1}}},
        {"stop": [["a"]]},
        {"stop": ["x"] * 65},
        {"Temperature": 1},
        {"x-y": 1},
        {"": 1},
        {"a\n": 1},
        {"suffix": "x" * 5000},
        {"suffix": "\ud800"},
        {"logit_bias": {"\ud800": 1}},
        {f"p{n}": n for n in range(33)},
    ],
    ids=lambda value: str(value)[:40].encode("ascii", "replace").decode(),
)
def test_the_request_itself_and_nonsense_cannot_be_a_default(defaults: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as refused:
        spec(request_defaults=defaults)
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text() | st.sampled_from(["temperature", "stop"]), json_values))
def test_what_is_accepted_can_always_be_sent(defaults: dict[str, Any]) -> None:
    try:
        check_defaults(defaults)
    except SpecError:
        return
    text = defaults_json(defaults)
    assert len(text.encode()) <= 4096
    assert json.loads(text or "{}") == defaults


@pytest.mark.parametrize("field", ["max_prompt_bytes", "max_output_tokens", "max_sequences"])
@pytest.mark.parametrize("value", [-1, 10**12, 10**400, True])
def test_limits_are_whole_numbers_within_reason(field: str, value: int) -> None:
    with pytest.raises(SpecError, match=field):
        spec(request_limits=RequestLimits(**{field: value}))


def test_specs_that_are_only_offered_otherwise_are_asked_for_alike() -> None:
    plain = spec(demand=Demand(1.0))
    offered = spec(
        demand=Demand(1.0),
        aliases=("a",),
        request_defaults={"temperature": 0},
        request_limits=RequestLimits(max_sequences=2),
    )
    assert offered != plain
    assert plain.offered_as(offered) == offered
    assert plain.asked_as(offered) == offered, "the same candidates"
    assert len({offered, spec(demand=Demand(1.0)), plain}) == 2


@pytest.mark.parametrize(
    ("defaults", "limits"),
    [
        ({"max_tokens": -5}, {}),
        ({"max_tokens": "5"}, {}),
        ({"max_tokens": True}, {}),
        ({"max_completion_tokens": 10**9}, {}),
        ({"max_tokens": 51}, {"max_output_tokens": 50}),
        ({"n": 0}, {}),
        ({"n": 2.0}, {}),
        ({"n": 3}, {"max_sequences": 2}),
    ],
    ids=str,
)
def test_a_default_that_would_refuse_every_request_is_refused_itself(
    defaults: dict[str, Any], limits: dict[str, int]
) -> None:
    with pytest.raises(SpecError, match=next(iter(defaults))) as refused:
        spec(request_defaults=defaults, request_limits=RequestLimits(**limits))
    assert refused.value.hint
    assert refused.value.message.isprintable()


def test_a_default_within_the_limits_is_taken() -> None:
    limits = RequestLimits(max_output_tokens=50, max_sequences=2)
    taken = spec(request_defaults={"max_tokens": 50, "n": 2}, request_limits=limits)
    assert taken.request_defaults == {"max_tokens": 50, "n": 2}
