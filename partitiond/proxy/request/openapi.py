"""Builds the endpoint's OpenAPI document from the table of its routes.

The bodies are OpenAI's (and Anthropic's), and the engine checks them; this document states only
what the proxy itself requires of them.
"""

import functools
from typing import Any, Final

import partitiond
from partitiond.core.dispatch.routing import RouteKind
from partitiond.proxy.request.requests import DataRoute
from partitiond.proxy.request.routes import DATA_ROUTES

_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
_REFUSED: Final = {
    "description": "Why there is no answer; docs/how-to/call-it.md has the codes.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_REQUIRED: Final[dict[str, dict[str, Any]]] = {
    "/v1/completions": {"prompt": {}},
    "/v1/chat/completions": {"messages": {"type": "array", "items": {"type": "object"}}},
    "/v1/chat/completions/batch": {
        "messages": {"type": "array", "items": {"type": "array", "items": {"type": "object"}}}
    },
    "/v1/messages": {"messages": {"type": "array", "items": {"type": "object"}}},
    "/v1/responses": {"input": {}},
}


@functools.cache
def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    paths: dict[str, Any] = {route.path: {"post": _operation(route)} for route in DATA_ROUTES}
    paths["/v1/models"] = {"get": _listing("listModels", "List the models")}
    paths["/v1/models/{model}"] = {
        "get": {
            **_listing("retrieveModel", "Describe one model"),
            "parameters": [
                {
                    "name": "model", "in": "path", "required": True,
                    "schema": {"type": "string", "minLength": 1},
                }
            ],
        }
    }  # fmt: skip
    for path, operation in (("/healthz", "healthz"), ("/health", "health")):
        paths[path] = {
            "get": {
                "operationId": operation,
                "summary": "Whether requests are served",
                "responses": {"200": {"description": "Yes."}, "503": {"description": "Not yet."}},
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "partitiond: the OpenAI-compatible endpoint",
            "version": partitiond.__version__,
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _ERROR},
        },
        "security": [{"key": []}, {}],
        "paths": paths,
    }


def _listing(operation: str, summary: str) -> dict[str, Any]:
    answer = {"200": {"description": "What there is.", "content": {"application/json": {}}}}
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {**answer, "default": _REFUSED},
    }


def _operation(route: DataRoute) -> dict[str, Any]:
    required = _REQUIRED.get(route.path, {})
    properties: dict[str, Any] = {"model": {"type": "string", "minLength": 1}, **required}
    content: dict[str, Any] = {"application/json": {}}
    if route.streams:
        properties["stream"] = {"type": ["boolean", "null"]}
        content["text/event-stream"] = {}
    if route.kind is RouteKind.EMBED:
        content["application/octet-stream"] = {}
    schema = {
        "type": "object",
        "required": ["model", *required],
        "properties": properties,
        "additionalProperties": True,
    }
    name = route.path.strip("/").replace("/", " ").replace(".", " ").title().replace(" ", "")
    return {
        "operationId": f"create{name}",
        "summary": route.summary,
        "tags": [route.kind.value],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {"description": "The engine's answer, unchanged.", "content": content},
            "default": _REFUSED,
        },
    }
