"""Defines and checks API keys: permissions, expiry, limits and use."""

import dataclasses
from typing import Final

from partitiond.core.checks import require
from partitiond.core.dispatch.routing import (
    NO_KEY_RATES,
    NO_REQUEST_LIMITS,
    KeyRates,
    RequestLimits,
    RouteKind,
)
from partitiond.core.instants import unix_seconds
from partitiond.core.model.request_options import ALIAS_PATTERN, check_count, check_request_limits

MAX_LABEL: Final = 200
MAX_KEY_MODELS: Final = 256
MAX_KEY_PRIORITY: Final = 10
KEY_PRIORITIES: Final = f"-{MAX_KEY_PRIORITY} to {MAX_KEY_PRIORITY}"
LEAST_WEIGHT, MOST_WEIGHT = 0.01, 100.0
MAX_REQUESTS_PER_MINUTE: Final = 10**9
MAX_TOKENS_PER_MINUTE: Final = 10**12
MAX_KEY_IN_FLIGHT: Final = 10**6
MAX_TOKEN_BUDGET: Final = 10**15
"""Below 2**53, so that a program that reads the budget as a float reads the same number."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeyTerms:
    """Permissions, expiry and limits of a key; all can change while the key is in use.

    Attributes:
        label: the owner's name for the key.
        models: registered names of the models that the key may use; empty for all.
        routes: kinds of routes that the key may use; empty for all.
        expires_at: ISO 8601 UTC time from which the key is refused; None for never.
        priority: requests of a higher priority leave the queue first; 0 is usual.
        weight: share in the fair queue relative to other keys of the same priority.
        limits: per request.
        rates: over time.
    """

    label: str = ""
    models: tuple[str, ...] = ()
    routes: tuple[RouteKind, ...] = ()
    expires_at: str | None = None
    priority: int = 0
    weight: float = 1.0
    limits: RequestLimits = NO_REQUEST_LIMITS
    rates: KeyRates = NO_KEY_RATES

    def __post_init__(self) -> None:
        require(
            len(self.label) <= MAX_LABEL and self.label.isprintable(),
            f"a label has at most {MAX_LABEL} characters, all of them printable.",
            "Say in a few words who uses the key.",
        )
        require(
            len(self.models) <= MAX_KEY_MODELS,
            f"a key names at most {MAX_KEY_MODELS} models.",
            "Leave models out for all of them.",
        )
        for name in self.models:
            require(
                bool(ALIAS_PATTERN.fullmatch(name)),
                f"{name[:140]!r} in models is no name of a model.",
                "`partitiond models` shows the names.",
            )
        require(
            len(set(self.models)) == len(self.models) and len(set(self.routes)) == len(self.routes),
            "a model or kind of route is named twice.",
            "Name each once.",
        )
        require(
            abs(self.priority) <= MAX_KEY_PRIORITY,
            f"a key's priority must be {KEY_PRIORITIES}, got {str(self.priority)[:40]}.",
            "0 is usual; a higher number is served first.",
        )
        require(
            LEAST_WEIGHT <= self.weight <= MOST_WEIGHT,
            f"weight must be between {LEAST_WEIGHT} and {MOST_WEIGHT:g}, got {self.weight!r}.",
            "1 is usual; a key of weight 2 gets twice the share of one of weight 1.",
        )
        if self.expires_at is not None:
            require(
                _is_instant(self.expires_at),
                f"{self.expires_at[:40]!r} is no time.",
                "Write it as 2030-01-31T00:00:00Z.",
            )
        check_request_limits(self.limits)
        check_key_rates(self.rates)


def _is_instant(text: str) -> bool:
    try:
        unix_seconds(text)
    except ValueError:
        return False
    return True


def check_key_rates(rates: KeyRates) -> None:
    """Raise SpecError for a rate that is negative or impossibly large."""
    for name, most in (
        ("requests_per_minute", MAX_REQUESTS_PER_MINUTE),
        ("tokens_per_minute", MAX_TOKENS_PER_MINUTE),
        ("max_in_flight", MAX_KEY_IN_FLIGHT),
        ("token_budget", MAX_TOKEN_BUDGET),
    ):
        check_count(getattr(rates, name), name, most)


def differences(old: KeyTerms, new: KeyTerms) -> tuple[str, ...]:
    """Return the names of the terms that differ, in their order."""
    return tuple(
        field.name
        for field in dataclasses.fields(KeyTerms)
        if getattr(old, field.name) != getattr(new, field.name)
    )


@dataclasses.dataclass(frozen=True, slots=True)
class KeyUse:
    """Use of a key, as the proxy counts it.

    Attributes:
        requests: accepted since the proxy began to count.
        tokens: prompt and output tokens of those requests.
        budget_used: tokens used in the present budget period.
        in_flight: requests running or waiting now.
    """

    requests: int
    tokens: int
    budget_used: int
    in_flight: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord(KeyTerms):
    """An API key as stored: its SHA-256, never the key.

    Attributes:
        id: short public name, in logs and metrics, too.
        created_at, updated_at: ISO 8601 UTC.
        previous_sha256: of the secret before the last rotation; empty where there is none.
        previous_until: ISO 8601 UTC until which that one is taken as well.
    """

    id: str
    sha256: str
    created_at: str
    updated_at: str = ""
    previous_sha256: str = ""
    previous_until: str | None = None
