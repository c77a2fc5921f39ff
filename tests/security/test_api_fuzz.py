"""Both APIs answer no request that fits, or nearly fits, their own documents with a 5xx.

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
EXAMPLES = 6
SLOW_EXAMPLES = 60
BODIES = 4
SLOW_BODIES = 100
"""Examples for each of some fifteen routes, of a dozen bodies each."""
ENDLESS = {"GET /jobs/{job_id}/events"}
"""Operations that answer as long as what they watch runs; with random ids they end at once."""


def limits(examples: int, *, derandomize: bool) -> settings:
    return settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def try_every_operation(
    document: dict[str, Any], send: Any, *, examples: int, derandomize: bool
) -> dict[str, set[int]]:
    """Requests that fit the document and requests that do not; the statuses by operation."""
    schema = schemathesis.openapi.from_dict(document)
    seen: dict[str, set[int]] = {}
    found: Any  # an operation, or why there is none: then asking for it raises
    for found in schema.get_all_operations():
        operation = found.ok()
        statuses = seen.setdefault(operation.label, set())
        for mode in generation.GenerationMode:
            _try(operation, mode, send, statuses, limits(examples, derandomize=derandomize))
    return seen


def _try(operation: Any, mode: Any, send: Any, statuses: set[int], bounds: settings) -> None:
    @bounds
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


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    yield fake
    fake.close()


def fuzz_control(service: FakeService, *, examples: int, derandomize: bool) -> None:
    app = create_app(service, admin_token=TOKEN)
    with TestClient(app, raise_server_exceptions=False) as client:
        token = {"Authorization": f"Bearer {TOKEN}"}
        turns = itertools.count()

        def send(case: Any) -> int:
            watching = case.operation.label in ENDLESS
            if (
                case.path_parameters and not watching and next(turns) % 3
            ):  # random names only ever find nothing
                case.path_parameters = {
                    name: known(client, name, token) for name in case.path_parameters
                }
            values = case.as_transport_kwargs(base_url="http://testserver")
            return ask(client, values, {**dict(values.pop("headers")), **token})

        seen = try_every_operation(app.openapi(), send, examples=examples, derandomize=derandomize)
    assert len(seen) > 25
    assert any(200 in statuses for statuses in seen.values())


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


def test_the_control_api_never_answers_5xx(service: FakeService) -> None:
    fuzz_control(service, examples=EXAMPLES, derandomize=True)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_the_control_api_never_answers_5xx_to_many_requests(service: FakeService) -> None:
    fuzz_control(service, examples=SLOW_EXAMPLES, derandomize=False)


@pytest.fixture
def served(attacked: tuple[Target, Recorder]) -> tuple[Target, Recorder]:
    return attacked


def fuzz_data(target: Target, engine: Recorder, *, examples: int, derandomize: bool) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{target.port}", trust_env=False) as client:
        document = client.get("/openapi.json", headers=headers).json()

        def send(case: Any) -> int:
            values = case.as_transport_kwargs(base_url=f"http://127.0.0.1:{target.port}")
            if isinstance(values.get("json"), dict) and "model" in values["json"]:
                values["json"]["model"] = "m"  # a random name would never come past the route
            return ask(client, values, {**dict(values.pop("headers")), **headers})

        seen = try_every_operation(document, send, examples=examples, derandomize=derandomize)
    assert {label.split(" ")[1] for label in seen} == {
        *RIGHT,
        "/v1/models",
        "/v1/models/{model}",
        "/healthz",
        "/health",
    }
    assert engine.violations == []


def fuzz_bodies(target: Target, engine: Recorder, *, examples: int, derandomize: bool) -> None:
    """What engines read, which the document does not tell, with anything wrong at any depth."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    statuses: set[int] = set()
    with httpx.Client(base_url=f"http://127.0.0.1:{target.port}", trust_env=False) as client:
        for path in RIGHT:
            _try_bodies(client, path, headers, statuses, limits(examples, derandomize=derandomize))
    assert {200, 400} <= statuses
    assert engine.violations == []
    assert target.alive()


def _try_bodies(
    client: httpx.Client, path: str, headers: dict[str, str], statuses: set[int], bounds: settings
) -> None:
    @bounds
    @given(alike=bodies(path))
    def run(alike: list[bytes]) -> None:
        for body in alike:
            answer = client.post(path, content=body, headers=headers, timeout=120)
            statuses.add(answer.status_code)
            told = f"{path}: {answer.status_code} to {body[:4000]!r}"
            assert answer.status_code < 500, told
            assert answer.status_code < 400 or answer.json()["error"]["message"], told

    run()


def test_the_data_api_never_answers_5xx(served: tuple[Target, Recorder]) -> None:
    fuzz_data(*served, examples=EXAMPLES, derandomize=True)


def test_no_body_that_an_engine_might_read_gets_a_5xx(served: tuple[Target, Recorder]) -> None:
    fuzz_bodies(*served, examples=BODIES, derandomize=True)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_no_body_of_many_gets_a_5xx(served: tuple[Target, Recorder]) -> None:
    """Other bodies each time; the one that fails is told, as small as it can be made."""
    fuzz_bodies(*served, examples=SLOW_BODIES, derandomize=False)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_the_data_api_never_answers_5xx_to_many_requests(served: tuple[Target, Recorder]) -> None:
    fuzz_data(*served, examples=SLOW_EXAMPLES, derandomize=False)
