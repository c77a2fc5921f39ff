"""The OpenAPI document is complete: a reader of the document alone can use the API."""

import inspect

import httpx
from fastapi import Response
from fastapi.routing import APIRoute

from partitiond.api.routes import ROUTERS

METHODS = {"get", "post", "patch", "delete", "put"}


async def test_every_operation_is_described_and_every_answer_has_a_schema(
    http: httpx.AsyncClient,
) -> None:
    """Which operations and fields there are is frozen in tests/surfaces."""
    operations = {
        f"{method.upper()} {path}": operation
        for path, item in (await http.get("/openapi.json")).json()["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }
    without = {name for name, o in operations.items() if "401" not in o["responses"]}
    assert without == {"GET /healthz", "GET /readyz"}
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(set(ids)) == len(ids)
    for name, operation in operations.items():
        assert operation["summary"], name
        assert operation["description"].endswith("."), name
        assert operation["tags"], name
        for status, answer in operation["responses"].items():
            assert answer.get("content") or status == "204", (name, status)
            for media, content in answer.get("content", {}).items():
                assert content["schema"], (name, status)
                assert (media == "application/problem+json") == (int(status) >= 400)


def test_a_daemon_makes_no_schema_of_its_answers_when_it_starts() -> None:
    """They are a second of CPU time, and the document alone needs them."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    assert not any(route.response_field or route.response_fields for route in routes)
    for route in routes:  # nothing but the route holds an answer against its schema
        answer = inspect.signature(route.endpoint, eval_str=True).return_annotation
        assert issubclass(answer, Response), route.name
