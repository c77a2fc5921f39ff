"""Draws API keys for people, never the key itself, which is not kept."""

import time
from collections.abc import Sequence

from rich.console import RenderableType

from partitiond.cli.columns import Column, fields, table_of, time_text
from partitiond.cli.options import limits_text
from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates
from partitiond.core.instants import unix_seconds
from partitiond.core.keys.record import KeyRecord
from partitiond.core.views.lists import KeyView


def keys_table(keys: Sequence[KeyRecord]) -> RenderableType:
    """Ids, labels, models and expiry of the keys."""
    if not keys:
        return "No API keys. Make one: partitiond keys create --label my-app"
    return table_of(
        keys,
        Column("key", lambda key: key.id, whole=True),
        Column("label", lambda key: key.label),
        Column("models", lambda key: ", ".join(key.models) or "all"),
        Column("created", lambda key: time_text(key.created_at)[:10], whole=True),
        Column("expires", expiry_text),
    )


def expiry_text(key: KeyRecord) -> str:
    """When the key expires, or "expired"."""
    if key.expires_at is None:
        return "never"
    if unix_seconds(key.expires_at) <= time.time():
        return "expired"
    return time_text(key.expires_at)


def key_table(view: KeyView) -> RenderableType:
    """One key, a line for each of its terms, and its use."""
    key = view.record
    return fields(
        (
            ("key", key.id),
            ("label", key.label or "-"),
            ("models", ", ".join(key.models) or "all"),
            ("routes", ", ".join(key.routes) or "all"),
            ("expires", expiry_text(key)),
            ("priority", str(key.priority)),
            ("weight", f"{key.weight:g}"),
            ("each request", limits_text(key.limits)),
            ("rates", rates_text(key.rates)),
            ("use", _use_text(view)),
            ("created", time_text(key.created_at)),
            ("changed", time_text(key.updated_at or key.created_at)),
            ("former secret", _former_text(key)),
        )
    )


def _former_text(key: KeyRecord) -> str:
    if key.previous_until is None or unix_seconds(key.previous_until) <= time.time():
        return "none is taken"
    return f"is taken until {time_text(key.previous_until)}"


def rates_text(rates: KeyRates) -> str:
    """The rates and the budget of a key, on one line."""
    never = rates.budget_period is BudgetPeriod.NEVER
    period = "in all" if never else f"a {rates.budget_period.value}"
    parts = (
        (rates.requests_per_minute, "requests/min"),
        (rates.tokens_per_minute, "tokens/min"),
        (rates.max_in_flight, "in flight"),
        (rates.token_budget, f"tokens {period}"),
    )
    return ", ".join(f"{bound:,} {what}" for bound, what in parts if bound) or "no limit"


def _use_text(view: KeyView) -> str:
    use, rates = view.use, view.record.rates
    if use is None:
        return "not told by the endpoint"
    text = f"{use.requests:,} requests, {use.tokens:,} tokens, {use.in_flight:,} in flight"
    if rates.token_budget:
        share = use.budget_used / rates.token_budget
        text += f"; {use.budget_used:,} of the budget ({share:.0%})"
    return text
