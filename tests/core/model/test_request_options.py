"""Names, default parameters and limits of a model's requests are accepted or refused."""

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch.routing import RequestLimits
from partitiond.core.errors import SpecError
from partitiond.core.model.request_options import check_defaults, check_sampling, defaults_json
from partitiond.core.model.spec import Demand, ModelSource, ModelSpec, SourceKind

SOURCE = ModelSource(SourceKind.HUB, "org/model")


def spec(**changes: Any) -> ModelSpec:
    return ModelSpec("m", SOURCE, **changes)


@pytest.mark.parametrize(
    "alias",
    ["gpt-4o-mini", "org/Model-1.5B", "llama3.2:1b", "A", "x" * 128, "accounts/org/models/llama",
     "/models/llama-7b", "@cf/meta/llama-3"],
)  # fmt: skip
def test_names_that_clients_of_other_servers_send_can_be_aliases(alias: str) -> None:
    assert spec(aliases=(alias,)).aliases == (alias,)


@pytest.mark.parametrize(
    "defaults",
    [
        {"temperature": 0.2, "top_p": 1, "stop": ["\n", "User:"], "logprobs": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"response_format": {"type": "json_object"}},
        {"max_tokens": 50, "n": 2},
    ],
)
def test_parameters_can_have_defaults(defaults: dict[str, Any]) -> None:
    limits = RequestLimits(max_output_tokens=50, max_sequences=2)
    taken = spec(request_defaults=defaults, request_limits=limits).request_defaults
    assert json.loads(defaults_json(taken)) == defaults


NO_ALIASES = [
    "", "a b", "a\n", "//a", "/", "@", "@/a", "/@a", "a@b", "a/", "../a", "/../a", "a/..",
    "a//b", "\u00e4", "-a", "x" * 129, "a?b", "a%2fb", "\x1b[2J",
]  # fmt: skip
NO_DEFAULTS: list[dict[str, Any]] = [
    *[{name: "x"} for name in ("model", "prompt", "input", "user")],
    {"messages": []},
    {"stream": True},
    *[{"temperature": value} for value in (None, float("nan"), float("inf"))],
    {"seed": 2**64},
    {"tools": [{"type": "function"}]},
    {"a": {"b": {"c": 1}}},
    {"stop": [["a"]]},
    {"stop": ["x"] * 65},
    *[{name: 1} for name in ("Temperature", "x-y", "", "a\n")],
    *[{"suffix": text} for text in ("x" * 5000, "\ud800")],
    {"logit_bias": {"\ud800": 1}},
    {f"p{n}": n for n in range(33)},
]
REFUSE_EVERY_REQUEST: list[tuple[dict[str, Any], dict[str, int]]] = [
    ({"max_tokens": -5}, {}),
    ({"max_tokens": "5"}, {}),
    ({"max_tokens": True}, {}),
    ({"max_completion_tokens": 10**9}, {}),
    ({"max_tokens": 51}, {"max_output_tokens": 50}),
    ({"n": 0}, {}),
    ({"n": 2.0}, {}),
    ({"n": 3}, {"max_sequences": 2}),
]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *[({"aliases": (alias,)}, "") for alias in NO_ALIASES],
        # Aliases are other names, each once and not many.
        *[({"aliases": some}, "") for some in (("m",), ("a", "a"), tuple(map(str, range(33))))],
        # The request itself and nonsense cannot be a default.
        *[({"request_defaults": defaults}, "") for defaults in NO_DEFAULTS],
        *[({"request_limits": RequestLimits(**{field: value})}, field)
          for field in ("max_prompt_bytes", "max_output_tokens", "max_sequences")
          for value in (-1, 10**12, 10**400, True)],
        # Nor what would refuse every request.
        *[({"request_defaults": defaults, "request_limits": RequestLimits(**limits)}, *defaults)
          for defaults, limits in REFUSE_EVERY_REQUEST],
    ],
    ids=lambda value: str(value)[:40].encode("ascii", "replace").decode(),
)  # fmt: skip
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as refused:
        spec(**changes)
    assert words in refused.value.message
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 400
    assert refused.value.hint
    with pytest.raises(SpecError, match="no model name"):
        ModelSpec("m\n", SOURCE)


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


def test_specs_that_are_only_offered_otherwise_are_asked_for_alike() -> None:
    plain, limits = spec(demand=Demand(1.0)), RequestLimits(max_sequences=2)
    offered = spec(
        demand=Demand(1.0), aliases=("a",), request_defaults={"temperature": 0},
        request_limits=limits,
    )  # fmt: skip
    assert offered != plain
    assert plain.offered_as(offered) == offered
    assert plain.asked_as(offered) == offered, "the same candidates"
    assert len({offered, spec(demand=Demand(1.0)), plain}) == 2


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("temperature", (0, 0.7, 2), (-0.1, 2.1, 99, True, "1", None)),
        ("top_p", (0.01, 1), (0, 1.01, 5)),
        ("presence_penalty", (-2, 2), (-2.1, 3)),
        ("repetition_penalty", (0.5, 1.2), (0, -1, 2.5)),
        ("top_k", (-1, 40), (-7, 2.5, True)),
        ("logprobs", (-1, 5, True), (-5, 1.0)),
        ("prompt_logprobs", (-1, 0), (-5, True)),
        ("top_logprobs", (0,), (-1, 20, 99)),
        ("min_tokens", (0, 5), (-1, "5")),
        ("truncate_prompt_tokens", (-1, 64), (-9,)),
        ("seed", (-5, 2**63 - 1), ("x", 2**63)),
        ("stop", ("a", [], ["a"] * 4), (5, "", ["a", ""], ["a"] * 5)),
        ("stop_token_ids", ([], [5]), (["a"], [True], 5)),
        ("bad_words", (["a"],), ("a", [""])),
        ("response_format", ({"type": "json_object"},), ("json", {}, {"type": "json_schema"})),
        ("ignore_eos", (True,), ("yes", datetime.date(2030, 1, 31))),
    ],
)
def test_a_sampling_parameter_that_engines_refuse_has_no_default(
    name: str, allowed: tuple[object, ...], refused: tuple[object, ...]
) -> None:
    for value in allowed:
        check_sampling({name: value})
    for value in refused:
        with pytest.raises(SpecError, match=f"the default of {name}"):
            check_sampling({name: value})
    check_sampling({"min_tokens": 5, "max_tokens": 5, "temperature": 0.1, "n": 2})
    check_sampling({"top_logprobs": 20, "logprobs": True})
    for wrong in ({"min_tokens": 6, "max_tokens": 5}, {"temperature": 0, "n": 2}):
        with pytest.raises(SpecError, match="the default of"):
            check_sampling(wrong)
