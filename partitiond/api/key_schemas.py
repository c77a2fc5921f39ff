"""Defines the bodies of /keys, and the limits that keys and models share."""

from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, ConfigDict, Field, model_validator

from partitiond.api.parts import Body
from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates, RequestLimits, RouteKind
from partitiond.core.errors import InputError
from partitiond.core.instants import utc_iso
from partitiond.core.keys.record import KeyTerms
from partitiond.serde import from_jsonable, to_jsonable

MAX_KEY_LIST = 256
MAX_EXPIRY_SECONDS = 100 * 366 * 86400.0

ExpirySeconds = Annotated[float, Field(gt=0, le=MAX_EXPIRY_SECONDS, allow_inf_nan=False)]
ModelNames = Annotated[tuple[str, ...], Field(max_length=MAX_KEY_LIST)]
Routes = Annotated[tuple[RouteKind, ...], Field(max_length=len(RouteKind))]


class RequestLimitsBody(Body):
    """Bounds of one request; 0 is none. Of a model's and a key's the stricter holds."""

    max_prompt_bytes: int = Field(
        0, description="Text of all its prompts together, in bytes; a token id counts as 4."
    )
    max_output_tokens: int = Field(
        0,
        description="A request that asks for more is refused; one that names no limit gets this "
        "one.",
    )
    max_sequences: int = Field(0, description="Prompts times n.")

    def to_limits(self) -> RequestLimits:
        """Convert to the core's type."""
        return RequestLimits(**self.model_dump())


class RequestLimitsPatch(Body):
    """What changes about the bounds of one request."""

    max_prompt_bytes: int | None = None
    max_output_tokens: int | None = None
    max_sequences: int | None = None


class KeyRatesBody(Body):
    """What a key may use over time; 0 is no limit. Tokens are prompt plus output tokens."""

    requests_per_minute: int = Field(0, description="A token bucket of one minute's size.")
    tokens_per_minute: int = Field(
        0, description="The same for tokens: debited by estimate, corrected by what was used."
    )
    max_in_flight: int = Field(0, description="Requests running or waiting at once.")
    token_budget: int = Field(0, description="Tokens per budget_period.")
    budget_period: BudgetPeriod = Field(
        BudgetPeriod.DAY, description="When the budget begins anew, in UTC; never: it is for life."
    )


class KeyRatesPatch(Body):
    """What changes about the rates."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_in_flight: int | None = None
    token_budget: int | None = None
    budget_period: BudgetPeriod | None = None


class _Expiring(Body):
    """Both ways of saying when a key ends."""

    expires_at: AwareDatetime | None = Field(
        None, description="When it is refused from, with a time zone; null for never."
    )
    expires_in_seconds: ExpirySeconds | None = Field(
        None, description="Instead of expires_at: so many seconds from now."
    )

    @model_validator(mode="after")
    def _one_expiry(self) -> Self:
        if self.expires_at is not None and self.expires_in_seconds is not None:
            raise ValueError("give either expires_at or expires_in_seconds")
        return self

    def expiry(self) -> str | None:
        """Return the expiry in the core's form."""
        if self.expires_in_seconds is not None:
            return utc_iso(datetime.now(UTC).timestamp() + self.expires_in_seconds)
        if self.expires_at is None:
            return None
        try:
            return utc_iso(self.expires_at.timestamp())
        except (ValueError, OverflowError) as error:
            raise InputError(
                "expires_at is out of range.", hint="Write it as 2030-01-31T00:00:00Z."
            ) from error


class KeyBody(_Expiring):
    """A new API key."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"label": "laptop"},
                {
                    "label": "batch jobs",
                    "models": ["chat"],
                    "routes": ["generate"],
                    "expires_in_seconds": 2592000,
                    "priority": -1,
                    "limits": {"max_output_tokens": 1024},
                    "rates": {"requests_per_minute": 600, "token_budget": 1000000},
                },
            ]
        }
    )

    label: str = Field("", max_length=200, description="What it is for.")
    models: ModelNames = Field((), description="Models it may use; empty for all.")
    routes: Routes = Field((), description="Kinds of routes it may use; empty for all.")
    priority: int = Field(
        0, description="-10 to 10; requests of a higher number leave the queue first."
    )
    weight: float = Field(
        1.0,
        description="Share in the fair queue against other keys of the same priority, 0.01 to 100.",
    )
    limits: RequestLimitsBody = RequestLimitsBody()
    rates: KeyRatesBody = KeyRatesBody()

    def to_terms(self) -> KeyTerms:
        """Convert to the service's type. Raises SpecError."""
        return KeyTerms(
            label=self.label,
            models=self.models,
            routes=self.routes,
            expires_at=self.expiry(),
            priority=self.priority,
            weight=self.weight,
            limits=self.limits.to_limits(),
            rates=KeyRates(**self.rates.model_dump()),
        )


class KeyPatch(_Expiring):
    """A merge patch (RFC 7396): what is absent stays, null returns to the default.

    A list is replaced as a whole.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"rates": {"requests_per_minute": 60}}, {"expires_at": None}]
        }
    )

    label: str | None = Field(None, max_length=200)
    models: ModelNames | None = None
    routes: Routes | None = None
    priority: int | None = None
    weight: float | None = None
    limits: RequestLimitsPatch | None = None
    rates: KeyRatesPatch | None = None

    def apply_to(self, terms: KeyTerms) -> KeyTerms:
        """Return the changed terms. Raises SpecError, InputError."""
        expiry = {"expires_at", "expires_in_seconds"}
        old = {field: getattr(terms, field) for field in KeyTerms.__dataclass_fields__}
        merged: dict[str, Any] = to_jsonable(KeyTerms(**old))
        for name, value in self.model_dump(mode="json", exclude_unset=True, exclude=expiry).items():
            if value is None:
                merged.pop(name)
            elif isinstance(value, dict):
                part = merged[name] | value
                merged[name] = {key: item for key, item in part.items() if item is not None}
            else:
                merged[name] = value
        if expiry & self.model_fields_set:
            merged["expires_at"] = self.expiry()
        return from_jsonable(KeyTerms, merged)


class RotateBody(Body):
    """How a key gets another secret."""

    grace_seconds: float = Field(
        3600.0,
        ge=0,
        le=90 * 86400,
        allow_inf_nan=False,
        description="How long the present secret is taken as well; 0 refuses it at once, which is "
        "what a leaked one needs.",
    )
