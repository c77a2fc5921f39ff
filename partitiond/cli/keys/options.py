"""Defines the options of `keys create` and `update`, and turns them into API bodies."""

import re
from typing import Any, Final

from partitiond.api.key_schemas import KeyBody
from partitiond.cli.form import OptionForm, Row
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


def expiry_body(text: str) -> dict[str, Any]:
    """The body's field for a key's expiry. Raises InputError: the text is not a time."""
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


def budget_body(text: str) -> dict[str, Any]:
    """The body's fields for a token budget, "1000000/day". Raises InputError: it is invalid."""
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


TERMS: Final = OptionForm(
    KeyBody,
    Row("label", metavar="TEXT"),
    Row("models", "--model", "NAME", nothing="all"),
    Row("routes", "--route", "generate|embed|tokenize", nothing="all"),
    Row(
        "expires_at",
        "--expires",
        "WHEN",
        "In so long (90s, 12h, 30d, 2w), at a time (2030-01-31, 2030-01-31T12:00Z), or "
        "'never' [never].",
        expiry_body,
    ),
    Row("priority", metavar="N"),
    Row("weight", metavar="W"),
    Row("rates.requests_per_minute", metavar="N"),
    Row("rates.tokens_per_minute", metavar="N"),
    Row("rates.max_in_flight", metavar="N"),
    Row(
        "rates.token_budget",
        "--token-budget",
        "N/hour|day|month|never",
        "Tokens per period [day], as 1000000/day; 0: no limit.",
        budget_body,
    ),
    Row("limits.max_prompt_bytes", metavar="N"),
    Row("limits.max_output_tokens", metavar="N"),
    Row("limits.max_sequences", metavar="N"),
)
"""The options of `keys create` and `keys update`."""
