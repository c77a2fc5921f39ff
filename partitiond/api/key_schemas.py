"""Defines the bodies of /keys."""

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AwareDatetime, ConfigDict, Field, model_validator

from partitiond.api.schemas import merge
from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates, RequestLimits, RouteKind
from partitiond.core.errors import InputError
from partitiond.core.instants import utc_iso
from partitiond.core.keys.record import KEY_PRIORITIES, KeyTerms
from partitiond.fleet.parts import Body, Patch, RequestLimitsBody, RequestLimitsPatch
from partitiond.serde import from_jsonable, to_jsonable

MAX_KEY_LIST = 256
MAX_EXPIRY_SECONDS = 100 * 366 * 86400.0

ExpirySeconds = Annotated[float, Field(gt=0, le=MAX_EXPIRY_SECONDS, allow_inf_nan=False)]
ModelNames = Annotated[tuple[str, ...], Field(max_length=MAX_KEY_LIST)]
Routes = Annotated[tuple[RouteKind, ...], Field(max_length=len(RouteKind))]


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


class KeyRatesPatch(KeyRatesBody, Patch):
    """What changes about the rates."""


class KeyBody(Body):
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
        0, description=f"{KEY_PRIORITIES}; requests of a higher number leave the queue first."
    )
    weight: float = Field(
        1.0,
        description="Share in the fair queue against other keys of the same priority, 0.01 to 100.",
    )
    limits: RequestLimitsBody = RequestLimitsBody()
    rates: KeyRatesBody = KeyRatesBody()
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

    def to_terms(self) -> KeyTerms:
        """Convert to the service's type. Raises SpecError."""
        return KeyTerms(
            label=self.label,
            models=self.models,
            routes=self.routes,
            expires_at=self.expiry(),
            priority=self.priority,
            weight=self.weight,
            limits=RequestLimits(**self.limits.model_dump()),
            rates=KeyRates(**self.rates.model_dump()),
        )


class KeyPatch(KeyBody, Patch):
    """A merge patch (RFC 7396): what is absent stays, null returns to the default.

    A list is replaced as a whole.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"rates": {"requests_per_minute": 60}}, {"expires_at": None}]
        }
    )

    limits: RequestLimitsPatch
    rates: KeyRatesPatch

    def apply_to(self, terms: KeyTerms) -> KeyTerms:
        """Return the changed terms. Raises SpecError, InputError."""
        expiry = {"expires_at", "expires_in_seconds"}
        old = {field: getattr(terms, field) for field in KeyTerms.__dataclass_fields__}
        changes = self.model_dump(mode="json", exclude_unset=True, exclude=expiry)
        if expiry & self.model_fields_set:
            changes["expires_at"] = self.expiry()
        return from_jsonable(KeyTerms, merge(to_jsonable(KeyTerms(**old)), changes))


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
