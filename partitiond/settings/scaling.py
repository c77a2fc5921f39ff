"""Defines the settings' table `[scaling]`."""

from pydantic import Field

from partitiond.core.demand.forecast import ForecastPolicy
from partitiond.core.demand.planned_rate import ScalingPolicy
from partitiond.serde import Table
from partitiond.settings.types import Seconds


class ScalingSettings(Table):
    """Models that scale by themselves."""

    step_seconds: Seconds = Field(
        10.0, description="Length of a step in which demand is counted, in seconds."
    )
    horizon_seconds: Seconds = Field(
        60.0, description="How far ahead demand is forecast, in seconds: about what a start takes."
    )
    quantile: float = Field(
        0.9, ge=0.5, lt=1, description="Share of the steps that are to stay below what is planned."
    )
    headroom: float = Field(
        0.1, ge=0, le=10, description="Share planned on top of the expected upper end."
    )
    band: float = Field(
        0.4,
        ge=0,
        lt=1,
        description="Share by which demand has to stay below the planned rate before the rate is "
        "lowered.",
    )
    up_cooldown_seconds: float = Field(
        20.0, ge=0, description="Pause after a raise before the next one, in seconds."
    )
    down_window_seconds: float = Field(
        300.0,
        ge=0,
        description="How long demand has to stay low before less is planned, in seconds.",
    )
    floor_req_per_s: float = Field(
        0.01, gt=0, description="Least rate that is planned for a model that is awake."
    )
    evict_idle_seconds: float = Field(
        3.0,
        ge=0,
        description="A model counts as busy for so many seconds after its last request.",
    )
    max_hold_seconds: Seconds = Field(
        120.0,
        description="Longest wait of a request for a model that is scaled to zero, in seconds; "
        "then 503 with Retry-After (a stream, which got comments meanwhile, an error event).",
    )

    def policy(self) -> ScalingPolicy:
        """Return the policy in the form of the core. Raises SpecError."""
        steps = max(1, round(self.horizon_seconds / self.step_seconds))
        return ScalingPolicy(
            forecast=ForecastPolicy(
                step_seconds=self.step_seconds,
                horizon_steps=steps,
                quantile=self.quantile,
            ),
            headroom=self.headroom,
            band=self.band,
            up_cooldown_seconds=self.up_cooldown_seconds,
            down_window_seconds=self.down_window_seconds,
            floor_req_per_s=self.floor_req_per_s,
        )
