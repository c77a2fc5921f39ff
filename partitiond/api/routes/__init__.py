"""Routes, one module per resource."""

from partitiond.api.routes import (
    devices,
    events,
    health,
    jobs,
    keys,
    models,
    plan,
    profiles,
    replicas,
)

ROUTERS = (
    health.router,
    models.router,
    jobs.router,
    profiles.router,
    plan.router,
    replicas.router,
    devices.router,
    events.router,
    keys.router,
)
"""All routers, in the order of the documentation."""

__all__ = ["ROUTERS"]
