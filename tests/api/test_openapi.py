"""The OpenAPI document is complete: a reader of the document alone can use the API."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

METHODS = {"get", "post", "patch", "delete", "put"}


@pytest.fixture
def operations(app: FastAPI) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, item in app.openapi()["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def test_every_operation_is_described(operations: dict[str, dict[str, Any]]) -> None:
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(set(ids)) == len(ids)
    for name, operation in operations.items():
        assert operation["summary"], name
        assert operation["description"].endswith("."), name
        assert operation["tags"], name


def test_every_answer_has_a_schema(operations: dict[str, dict[str, Any]]) -> None:
    for name, operation in operations.items():
        for status, answer in operation["responses"].items():
            if status != "204":
                assert answer["content"], (name, status)
            for media, content in answer.get("content", {}).items():
                assert content["schema"], (name, status)
                assert (media == "application/problem+json") == (int(status) >= 400)


def test_everything_but_the_probes_can_answer_401(
    operations: dict[str, dict[str, Any]],
) -> None:
    without = {name for name, o in operations.items() if "401" not in o["responses"]}
    assert without == {"GET /healthz", "GET /readyz"}


def test_the_promised_operations_are_there(operations: dict[str, dict[str, Any]]) -> None:
    promised = """GET /models, POST /models, GET /models/{name}, PATCH /models/{name},
        DELETE /models/{name}, POST /models/{name}/profile, POST /models/{name}/sleep,
        POST /models/{name}/wake, GET /jobs, GET /jobs/{job_id},
        DELETE /jobs/{job_id}, GET /jobs/{job_id}/events, GET /profiles,
        GET /profiles/{profile_id}, POST /profiles, POST /profiles/prune,
        POST /plan, POST /plan/apply, GET /plan, GET /plan/convergence,
            GET /plan/waiting, GET /replicas, GET /events,
            GET /devices, GET /devices/{device_id}, GET /hosts, DELETE /hosts/{name},
            PUT /devices/{device_id}/cordon, DELETE /devices/{device_id}/cordon,
        GET /keys, POST /keys, GET /keys/{key_id}, PATCH /keys/{key_id},
        POST /keys/{key_id}/rotate, DELETE /keys/{key_id}, POST /shutdown, GET /healthz,
        GET /readyz, GET /metrics, GET /overview, GET /usage, GET /drift,
        GET /drift/ledger, DELETE /drift/corrections/{profile_id}, POST /models/fit,
        GET /scaling, GET /scaling/{model}, GET /models/{name}/releases,
        POST /models/{name}/rollback, GET /"""
    assert {" ".join(name.split()) for name in promised.split(",")} == set(operations)


async def test_every_reference_resolves(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                *_, name = node["$ref"].split("/")
                assert name in document["components"]["schemas"]
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)


def test_bodies_say_that_unknown_fields_are_refused(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    for name in ("ModelBody", "ModelPatch", "ProfileBody", "Profile", "ModelSpec"):
        assert schemas[name]["additionalProperties"] is False, name
