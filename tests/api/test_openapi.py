"""The OpenAPI document is complete: a reader of the document alone can use the API."""

import json
import re
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


def test_every_operation_is_described_and_every_answer_has_a_schema(
    operations: dict[str, dict[str, Any]],
) -> None:
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
    without = {name for name, o in operations.items() if "401" not in o["responses"]}
    assert without == {"GET /healthz", "GET /readyz"}


async def test_every_reference_resolves_and_bodies_refuse_unknown_fields(
    http: httpx.AsyncClient,
) -> None:
    document = (await http.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    named = re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document))
    assert set(named) <= set(schemas)
    assert named
    for name in ("ModelBody", "ModelPatch", "ProfileBody", "Profile", "ModelSpec"):
        assert schemas[name]["additionalProperties"] is False, name
