"""Defines the settings' table `[tracing]`."""

from pydantic import Field

from partitiond.serde import Table
from partitiond.settings.types import HttpUrl


class TracingSettings(Table):
    """Traces of requests (OpenTelemetry), in the engines that answer them."""

    endpoint: HttpUrl | None = Field(
        None,
        description="Where engines send spans, by OTLP over HTTP: http://127.0.0.1:4318/v1/traces. "
        "Without it there are none.",
    )
    ratio: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of requests that are recorded, where the client's traceparent does not "
        "say.",
    )
