"""Defines the options of `keys create` and `update`, and turns them into API bodies."""

import dataclasses
import re
from typing import Any, Final

from partitiond.cli.options import (
    OutputTokensOption,
    PromptBytesOption,
    SequencesOption,
    limits_body,
    option,
    without_none,
)
from partitiond.core.errors import InputError
from partitiond.core.instants import unix_seconds, utc_iso
from partitiond.core.units import parse_duration

PERIODS: Final = ("hour", "day", "month", "never")
_DATE: Final = re.compile(r"^\d{4}-\d{2}-\d{2}")
_EXPIRY_HINT: Final = "As 30d, 2030-01-31, 2030-01-31T12:00Z, or never."


def seconds_of(option: str, text: str) -> float:
    """A duration given to an option. Raises InputError."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}.", hint="As 1h.") from error


def expiry_body(text: str | None) -> dict[str, Any]:
    """The body's field for a key's expiry. Raises InputError: the text is not a time."""
    if text is None:
        return {}
    if text == "never":
        return {"expires_at": None}
    if not _DATE.match(text):
        try:
            return {"expires_in_seconds": seconds_of("--expires", text)}
        except InputError as error:
            raise InputError(error.message, hint=_EXPIRY_HINT) from error

    try:
        return {"expires_at": utc_iso(unix_seconds(text))}
    except ValueError as error:
        raise InputError(f"--expires {text!r} is no time.", hint=_EXPIRY_HINT) from error


def budget_body(text: str | None) -> dict[str, Any]:
    """The body's fields for a token budget, "1000000/day". Raises InputError: it is invalid."""
    if text is None:
        return {}
    number, slash, period = text.strip().partition("/")
    digits = number.replace("_", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise InputError(
            f"--token-budget {text!r} is no budget.", hint="As 1000000/day; 0 for none."
        )
    if slash and period not in PERIODS:
        raise InputError(
            f"--token-budget {text!r}: there is no period {period!r}.",
            hint=f"Use one of {', '.join(PERIODS)}.",
        )
    if slash and not int(digits):
        raise InputError(
            f"--token-budget {text!r} would be no limit at all.",
            hint="0 alone takes the budget away; `partitiond keys remove` ends the key's use.",
        )
    return {"token_budget": int(digits)} | ({"budget_period": period} if slash else {})


@dataclasses.dataclass(frozen=True, slots=True)
class GivenTerms:
    """The options of `keys create` and `keys update`."""

    label: str | None = option("Who or what uses it.", metavar="TEXT")
    models: list[str] | None = option(
        "Allow only this model; repeatable; 'all' for all [all].", "--model", metavar="NAME"
    )
    routes: list[str] | None = option(
        "Allow only this kind of route; repeatable; 'all' for all [all].",
        "--route",
        metavar="generate|embed|tokenize",
    )
    expires: str | None = option(
        "In so long (90s, 12h, 30d, 2w), at a time (2030-01-31, 2030-01-31T12:00Z), or "
        "'never' [never].",
        metavar="WHEN",
    )
    priority: int | None = option(
        "Requests of a higher one leave the queue first [0].", metavar="-10..10"
    )
    weight: float | None = option("Share in the queue among equal priorities [1].", metavar="W")
    requests_per_minute: int | None = option("Requests per minute; 0: no limit.", metavar="N")
    tokens_per_minute: int | None = option(
        "Prompt and output tokens per minute; 0: no limit.", metavar="N"
    )
    max_in_flight: int | None = option(
        "Requests running or waiting at once; 0: no limit.", metavar="N"
    )
    token_budget: str | None = option(
        "Tokens per period [day], as 1000000/day; 0: no limit.", metavar="N/hour|day|month|never"
    )
    max_prompt_bytes: PromptBytesOption = None
    max_output_tokens: OutputTokensOption = None
    max_sequences: SequencesOption = None

    def body(self) -> dict[str, Any]:
        """All terms that were given, as the body of POST or PATCH /keys. Raises InputError."""
        body = self._given("label", "priority", "weight") | expiry_body(self.expires)
        for name, values in (("models", self.models), ("routes", self.routes)):
            if values:
                body[name] = [] if values == ["all"] else values
        limits = limits_body(self.max_prompt_bytes, self.max_output_tokens, self.max_sequences)
        rates = self._given("requests_per_minute", "tokens_per_minute", "max_in_flight")
        rates |= budget_body(self.token_budget)
        return body | {name: p for name, p in (("limits", limits), ("rates", rates)) if p}

    def _given(self, *names: str) -> dict[str, Any]:
        return without_none({name: getattr(self, name) for name in names})
