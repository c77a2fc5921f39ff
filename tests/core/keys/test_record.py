"""Terms that no key can have are refused."""

from typing import Any

import pytest

from partitiond.core.dispatch.routing import KeyRates, RequestLimits, RouteKind
from partitiond.core.errors import SpecError
from partitiond.core.keys.record import KeyTerms, differences

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"label": "x" * 201}, "label"),
    ({"label": "a\nb"}, "label"),
    ({"label": "\x1b[2J"}, "label"),
    ({"models": ("m",) * 257}, "models"),
    ({"models": ("",)}, "models"),
    ({"models": ("a b",)}, "models"),
    ({"models": ("\ud800",)}, "models"),
    ({"label": "\ud800"}, "label"),
    ({"models": ("m", "m")}, "twice"),
    ({"routes": (RouteKind.EMBED, RouteKind.EMBED)}, "twice"),
    ({"expires_at": "soon"}, "no time"),
    ({"expires_at": ""}, "no time"),
    ({"priority": 11}, "priority"),
    ({"priority": -(10**400)}, "priority"),
    ({"weight": 0.0}, "weight"),
    ({"weight": -1.0}, "weight"),
    ({"weight": float("nan")}, "weight"),
    ({"weight": float("inf")}, "weight"),
    ({"limits": RequestLimits(max_output_tokens=-1)}, "max_output_tokens"),
    ({"rates": KeyRates(requests_per_minute=-1)}, "requests_per_minute"),
    ({"rates": KeyRates(tokens_per_minute=10**400)}, "tokens_per_minute"),
    ({"rates": KeyRates(max_in_flight=-5)}, "max_in_flight"),
    ({"rates": KeyRates(token_budget=2**63)}, "token_budget"),
]


@pytest.mark.parametrize(("terms", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_each_wrong_term_is_named_in_a_short_message(terms: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words) as refused:
        KeyTerms(**terms)
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 300
    assert refused.value.hint


def test_differences_are_told_by_name() -> None:
    changed = KeyTerms(label="x", rates=KeyRates(max_in_flight=1))
    assert differences(KeyTerms(), changed) == ("label", "rates")
    assert differences(changed, changed) == ()
