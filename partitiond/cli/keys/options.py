"""Defines the options of `keys create` and `update`, and turns them into API bodies."""

import dataclasses
import re
from typing import Annotated, Any, Final

import typer

from partitiond.cli.options import (
    OutputTokensOption,
    PromptBytesOption,
    SequencesOption,
    limits_body,
    without_none,
)
from partitiond.core.errors import InputError
from partitiond.core.instants import unix_seconds, utc_iso
from partitiond.core.units import parse_duration

LabelOption = Annotated[
    str | None, typer.Option("--label", metavar="TEXT", help="Who or what uses it.")
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="NAME", help="Allow only this model; repeatable; 'all' for all [all]."
    ),
]
RoutesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--route",
        metavar="generate|embed|tokenize",
        help="Allow only this kind of route; repeatable; 'all' for all [all].",
    ),
]
ExpiresOption = Annotated[
    str | None,
    typer.Option(
        "--expires",
        metavar="WHEN",
        help="In so long (90s, 12h, 30d, 2w), at a time (2030-01-31, 2030-01-31T12:00Z), or "
        "'never' [never].",
    ),
]
PriorityOption = Annotated[
    int | None,
    typer.Option(
        "--priority", metavar="-10..10", help="Requests of a higher one leave the queue first [0]."
    ),
]
WeightOption = Annotated[
    float | None,
    typer.Option("--weight", metavar="W", help="Share in the queue among equal priorities [1]."),
]
RequestsOption = Annotated[
    int | None,
    typer.Option("--requests-per-minute", metavar="N", help="Requests per minute; 0: no limit."),
]
TokensOption = Annotated[
    int | None,
    typer.Option(
        "--tokens-per-minute", metavar="N", help="Prompt and output tokens per minute; 0: no limit."
    ),
]
InFlightOption = Annotated[
    int | None,
    typer.Option(
        "--max-in-flight", metavar="N", help="Requests running or waiting at once; 0: no limit."
    ),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--token-budget",
        metavar="N/hour|day|month|never",
        help="Tokens per period [day], as 1000000/day; 0: no limit.",
    ),
]
GraceOption = Annotated[
    str,
    typer.Option(
        "--grace",
        metavar="TIME",
        help="How long the present secret is taken as well (90s, 1h, 2d); 0 for a leaked one.",
    ),
]

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

    label: LabelOption = None
    models: ModelsOption = None
    routes: RoutesOption = None
    expires: ExpiresOption = None
    priority: PriorityOption = None
    weight: WeightOption = None
    requests_per_minute: RequestsOption = None
    tokens_per_minute: TokensOption = None
    max_in_flight: InFlightOption = None
    token_budget: BudgetOption = None
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
