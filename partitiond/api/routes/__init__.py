"""Collects the routers, one module per resource."""

from partitiond.api.routes import (
    devices,
    drift,
    events,
    fit,
    health,
    hosts,
    jobs,
    keys,
    models,
    overview,
    plan,
    profiles,
    releases,
    replicas,
    scaling,
    ui,
    ui_endpoint,
    usage,
)

ROUTERS = (
    health.router,
    models.router,
    releases.router,
    fit.router,
    jobs.router,
    profiles.router,
    plan.router,
    replicas.router,
    devices.router,
    hosts.router,
    events.router,
    keys.router,
    overview.router,
    drift.router,
    ui_endpoint.router,
    ui.router,
    usage.router,
    scaling.router,
)
"""All routers, in the order of the API documentation."""

__all__ = ["ROUTERS"]
