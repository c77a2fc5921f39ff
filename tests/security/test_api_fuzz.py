"""No API answers a request that fits, or nearly fits, with a 5xx.

schemathesis makes the requests, hypothesis shrinks what fails.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import generation
from starlette.testclient import TestClient

from partitiond.api.app import create_app
from tests.api.fake_service import FakeService
from tests.security.recorder import Recorder
from tests.security.request_bodies import RIGHT, bodies
from tests.security.target import KEY, Target, key

OPTIONS: dict[str, Any] = {}
KEYS = [key(KEY)]
TOKEN = "an-admin-token-for-tests"


def examples(few: int, many: int) -> pytest.MarkDecorator:
    """So many for each route; by hand more, other ones each time."""
    more = pytest.param(many, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])
    return pytest.mark.parametrize("count", [few, more])


def bounds(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=count < 10,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def try_every_operation(document: dict[str, Any], send: Any, count: int) -> dict[str, set[int]]:
    """Requests that fit the document and requests that do not; the statuses by operation."""
    schema = schemathesis.openapi.from_dict(document)
    seen: dict[str, set[int]] = {}
    found: Any  # an operation, or why there is none: then asking for it raises
    for found in schema.get_all_operations():
        operation = found.ok()
        statuses = seen.setdefault(operation.label, set())
        for mode in generation.GenerationMode:
            _try(operation, mode, send, statuses, count)
    return seen


def _try(operation: Any, mode: Any, send: Any, statuses: set[int], count: int) -> None:
    @bounds(count)
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        status = send(case)
        statuses.add(status)
        # 501 and 503 are answers: "cannot here" and "not now".
        assert status < 500 or status in {501, 503}, f"{operation.label}: {status} to {case}"

    try:
        run()
    except Exception as error:
        if "Unsatisfiable" in type(error).__name__:
            return  # nothing can be wrong with a request that has no part
        raise


ENDLESS = {"GET /jobs/{job_id}/events"}
"""Operations that answer as long as what they watch runs; with random ids they end at once."""


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    yield fake
    fake.close()


def known(client: Any, parameter: str, token: dict[str, str]) -> str:
    """The id of something that is there, made where nothing is."""
    if parameter == "name":
        client.post("/models", json={"model": "opt-125m", "name": "known"}, headers=token)
        return "known"
    kind = parameter.removesuffix("_id")
    if kind == "job":
        client.post(f"/models/{known(client, 'name', token)}/profile", json={}, headers=token)
    if kind == "key":
        client.post("/keys", json={}, headers=token)
    listed = client.get(f"/{kind}s", headers=token).json()
    if not listed or not isinstance(listed, list):
        return "none"
    return str(listed[0].get("id") or listed[0].get("name") or "none")


def ask(client: Any, values: dict[str, Any], headers: dict[str, Any]) -> int:
    """Send what schemathesis made; what httpx itself refuses never reaches the server."""
    content = {"content": values.get("data")} if values.get("data") is not None else {}
    json = {"json": values["json"]} if "json" in values else {}
    try:
        answer = client.request(
            values["method"],
            values["url"],
            params=values.get("params"),
            headers={str(k): str(v).encode("utf-8") for k, v in headers.items()},
            **content,
            **json,
        )
    except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError, TypeError, ValueError):
        return 0
    return int(answer.status_code)


@examples(3, 60)
def test_the_control_api_never_answers_5xx(service: FakeService, count: int) -> None:
    app = create_app(service.for_api, admin_token=TOKEN)
    with TestClient(app, raise_server_exceptions=False) as client:
        token = {"Authorization": f"Bearer {TOKEN}"}
        turns = itertools.count()

        def send(case: Any) -> int:
            # Random names only ever find nothing.
            if case.path_parameters and case.operation.label not in ENDLESS and next(turns) % 3:
                names = {name: known(client, name, token) for name in case.path_parameters}
                case.path_parameters = names
            values = case.as_transport_kwargs(base_url="http://testserver")
            return ask(client, values, {**dict(values.pop("headers")), **token})

        seen = try_every_operation(app.openapi(), send, count)
    assert len(seen) > 25
    assert any(200 in statuses for statuses in seen.values())


@pytest.fixture
def data_client(proxy: Target) -> Iterator[httpx.Client]:
    url, headers = f"http://127.0.0.1:{proxy.port}", {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=120) as client:
        yield client


def try_bodies(client: httpx.Client, path: str, statuses: set[int], count: int) -> None:
    @bounds(count)
    @given(alike=bodies(path))
    def run(alike: list[bytes]) -> None:
        for body in alike:
            answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
            statuses.add(answer.status_code)
            told = f"{path}: {answer.status_code} to {body[:4000]!r}"
            assert answer.status_code < 500, told
            assert answer.status_code < 400 or answer.json()["error"]["message"], told

    run()


@examples(4, 100)
def test_no_body_that_an_engine_might_read_gets_a_5xx(
    proxy: Target, data_client: httpx.Client, engine: Recorder, count: int
) -> None:
    """What engines read, which the document does not tell, with anything wrong at any depth."""
    statuses: set[int] = set()
    for path in RIGHT:
        try_bodies(data_client, path, statuses, count)
    assert {200, 400} <= statuses
    assert engine.violations == []
    assert proxy.alive()
