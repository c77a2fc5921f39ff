"""Defines the settings' table `[usage]`."""

from pydantic import Field

from partitiond.serde import Table


class UsageSettings(Table):
    """Usage of models by keys."""

    keep_days: int = Field(
        400, ge=0, le=36500, description="Days that usage by the hour is kept; 0 keeps all."
    )
