"""Builds the OpenAPI document: FastAPI's, plus our problem details and our tokens."""

from collections.abc import Iterable
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from partitiond.api.answers import Problem
from partitiond.api.auth import METRICS_PATH, OPEN_PATHS
from partitiond.api.errors import MEDIA_TYPE
from partitiond.api.replies import Route

_SCHEMA: Final = {"$ref": "#/components/schemas/Problem"}
_TAGS: Final = [
    {"name": "daemon", "description": "The daemon itself."},
    {"name": "models", "description": "What was registered, and how it is."},
    {"name": "jobs", "description": "Long-running work, with progress."},
    {"name": "profiles", "description": "Measured operating points, knees and footprints."},
    {"name": "plan", "description": "What would run, and what shall run."},
    {"name": "replicas", "description": "Engines as they are."},
    {"name": "devices", "description": "What engines can run on."},
    {"name": "events", "description": "What happened and why."},
    {"name": "keys", "description": "API keys of the OpenAI-compatible endpoint."},
]


def document(app: FastAPI, routers: Iterable[APIRouter]) -> dict[str, Any]:
    """Return the document of an app with these routers."""
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=[r.documented() for each in routers for r in each.routes if isinstance(r, Route)],
        tags=_TAGS,
    )
    schemas = made["components"]["schemas"]
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    schemas["Problem"] = Problem.model_json_schema()
    made["components"]["securitySchemes"] = {
        "adminToken": {
            "type": "http",
            "scheme": "bearer",
            "description": "The token in the file admin-token of the daemon's state folder.",
        },
        "metricsToken": {
            "type": "http",
            "scheme": "bearer",
            "description": "The token in the file metrics-token beside it: opens this alone.",
        },
    }
    made["security"] = [{"adminToken": []}]
    for path, operations in made["paths"].items():
        for operation in operations.values():
            _complete(path, operation)
    return made


def _complete(path: str, operation: dict[str, Any]) -> None:
    """Add the answers that every operation has, in their actual form."""
    responses = operation["responses"]
    if "422" in responses:
        responses["422"] = _problem("The request is not valid.")
    if "requestBody" in operation:
        responses["413"] = _problem("The request body is too large.")
    if path in OPEN_PATHS:
        operation["security"] = []
    else:
        responses["401"] = _problem("The admin token is missing or wrong.")
    if path == METRICS_PATH:
        operation["security"] = [{"adminToken": []}, {"metricsToken": []}]
    operation["responses"] = dict(sorted(responses.items()))


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: {"schema": _SCHEMA}}}
