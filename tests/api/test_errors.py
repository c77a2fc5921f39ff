"""Every error is a problem document that says what to do and leaks no internals."""

import ast
import json
import math
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import httpx

import partitiond
from partitiond.api.errors import STATUS, problem_response, status_of
from partitiond.api.limits import MAX_BODY_BYTES
from partitiond.core import errors
from partitiond.core.errors import MAX_CHARS, MAX_ITEMS, PartitiondError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSpec
from tests.controller.host import Host


def core_errors() -> list[type[PartitiondError]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, PartitiondError)
    ]


def test_every_error_of_the_core_has_a_status_of_its_own() -> None:
    assert [kind for kind in core_errors() if kind not in STATUS] == []
    assert all(HTTPStatus(status) for status in STATUS.values())

    class OwnError(errors.StartFailedError):
        pass

    assert status_of(OwnError("x")) == 502, "a subclass takes the nearest status"


OUR_FAULT = {"PlannerFailedError", "PlanRefusedError"}
"""Defects of the planner, not of what was asked: the base's 500 is what they deserve."""


def test_no_other_error_is_a_bare_partitiond_error() -> None:
    """An adapter's error stands below one of the core's, whose status it takes; else it is in
    the table. What never crosses the API (command line, proxy) is its own affair."""
    mapped = {kind.__name__ for kind in STATUS}
    package = Path(partitiond.__file__).parent
    bare = [
        f"{path.relative_to(package)}: {node.name}"
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] not in {"cli", "proxy"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith("PartitiondError") for base in node.bases)
        and node.name not in mapped | OUR_FAULT
    ]
    assert bare == []


def test_facts_and_texts_of_any_kind_can_be_sent() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    given: dict[str, object] = {
        "path": Path("/a"), "ids": (1, {2}), "none": None, "yes": True, "nan": math.nan,
        "big": 1 << 63, "most": -(1 << 63) + 1, "\ud800": "\ud800", "in": {Path("/b"): [-math.inf]},
        "deep": deep, "long": "x" * 10**6, "many": range(3), "list": [0] * 10**5,
    }  # fmt: skip
    error = errors.ConflictError("x \ud800", hint="\udfff", facts=given)
    body = json.loads(bytes(problem_response(error, "/").body))
    assert (body["detail"], body["hint"], str(error)) == ("x ?", "?", "x ? ?")
    facts = body["facts"]
    assert (len(facts.pop("long")), len(facts.pop("list"))) == (MAX_CHARS, MAX_ITEMS)
    assert facts == {
        "path": "/a", "ids": [1, [2]], "none": None, "yes": True, "nan": "nan",
        "big": str(1 << 63), "most": -(1 << 63) + 1, "?": "?", "in": {"/b": ["-inf"]},
        "deep": [[[[["..."]]]]], "many": "range(0, 3)",
    }  # fmt: skip


async def test_errors_of_http_are_problems_too(http: httpx.AsyncClient) -> None:
    for method, path, status, code in (
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/models/", 404, "not_found"),
        ("PUT", "/models", 405, "method_not_allowed"),
        ("POST", "/models", 422, "invalid_input"),
        ("GET", "/models/..%2f..", 404, "not_found"),
    ):
        answer = await http.request(method, path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        body = answer.json()
        assert (body["code"], body["status"]) == (code, status)
        assert body["hint"]
        assert body["instance"]
        assert status != 405 or "POST" in answer.headers["allow"]


async def test_bodies_that_are_no_json_object_are_refused(http: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b'"x"'):
        answer = await http.post("/models", content=content, headers=headers)
        assert answer.status_code in (400, 422)
        assert answer.headers["content-type"] == "application/problem+json"
        body = answer.json()
        assert body["hint"]
        if content not in (b"[]", b"null", b'"x"'):
            assert "body is not JSON" in body["detail"]
            assert "one JSON object" in body["hint"]
    for other in ({}, {"Content-Type": "text/plain"}):
        answer = await http.post("/models", content=b'{"model": "opt-125m"}', headers=other)
        assert answer.status_code == 422
        assert other.get("Content-Type", "missing") in answer.json()["detail"]
        assert "Content-Type: application/json" in answer.json()["hint"]
    body = {"model": "opt-125m", "demnd": 1, "slo": {"ttft": 1}, "demand": 5}
    said = (await http.post("/models", json=body)).json()["detail"]
    for words in (
        "demnd: there is no such field (Did you mean demand?)",
        "slo.ttft: there is no such field (Did you mean ttft_seconds?)",
        "slo.tpot_seconds: must be given",
        "demand: must be an object, got 5",
    ):
        assert words in said


async def test_a_defect_of_ours_leaks_nothing(http: httpx.AsyncClient, host: Host) -> None:
    async def broken(spec: ModelSpec) -> Architecture:
        raise RuntimeError("a secret")

    host.resolver.architecture = broken  # type: ignore[method-assign]
    answer = await http.post("/models", json={"model": "opt-125m"})
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text


async def test_a_body_beyond_the_bound_is_refused_when_it_is_reached(
    http: httpx.AsyncClient,
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * (1024 * 1024)

    headers = {"Content-Type": "application/json"}
    for content in (b" " * (MAX_BODY_BYTES + 1), chunks()):
        answer = await http.post("/models", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert answer.json()["hint"]
    within = b'{"model": "opt-125m"}' + b" " * (MAX_BODY_BYTES - 100)
    assert (await http.post("/models", content=within, headers=headers)).status_code == 201
