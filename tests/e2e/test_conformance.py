"""The proxy changes nothing: a bare engine and the proxy answer the same requests alike.

Answers are compared byte by byte except for ids and times: status, content type, whole bodies,
every event of a stream. `conformance_cases` lists the requests that the proxy answers itself.
"""

import contextlib
import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from partitiond.proxy.request.routes import BY_PATH
from tests.e2e.conformance_cases import (
    BATCH,
    CLASSIFIER,
    CLASSIFYING_CASES,
    GENERATING_CASES,
    MESSAGES,
    MODEL,
    POOL,
    POOLING_CASES,
    Case,
)
from tests.e2e.conformance_client import Reply, ask
from tests.e2e.conformance_engines import (
    proxy_for,
    real_generating,
    real_pooling,
    serving,
    simulated,
)
from tests.engine_fixtures import chat_model_folder, engine_environment

__all__ = ["chat_model_folder", "engine_environment"]


CONTENT: Final = re.compile(r'"content":"(?:[^"\\]|\\.)*"')
NUMBER: Final = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
ATTEMPTS: Final = 12
"""A busy vLLM sends two tokens in one event now and then, and computes two conversations now
together, now one after the other; it never does so for long."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """An engine and the proxy in front of it."""

    engine: Path
    proxy: str
    real: bool


KINDS: Final = [
    "simulated",
    # Two starts and over 200 requests of each: minutes on a busy machine.
    pytest.param("vllm", marks=[pytest.mark.engine, pytest.mark.full]),
]


@pytest.fixture(scope="module", params=KINDS)
def generating(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A model that generates."""
    with contextlib.ExitStack() as stack:
        real = request.param == "vllm"
        if real:
            environment = request.getfixturevalue("engine_environment")
            model = request.getfixturevalue("chat_model_folder")
            engine = stack.enter_context(real_generating(environment, model))
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pd-")))
            engine = stack.enter_context(simulated(folder, MODEL))
        proxy = stack.enter_context(proxy_for(serving(MODEL, engine, aliases=("small",))))
        yield Pair(engine, proxy.base_url, real)


@pytest.fixture(scope="module", params=KINDS)
def pooling(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A model that embeds."""
    with contextlib.ExitStack() as stack:
        real = request.param == "vllm"
        if real:
            environment = request.getfixturevalue("engine_environment")
            model = request.getfixturevalue("chat_model_folder")
            engine = stack.enter_context(real_pooling(environment, model))
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pd-")))
            engine = stack.enter_context(simulated(folder, POOL, "--task", "pooling"))
        proxy = stack.enter_context(proxy_for(serving(POOL, engine)))
        yield Pair(engine, proxy.base_url, real)


def asked(where: Path | str, case: Case) -> Reply:
    return ask(where, case.path, case.body, method=case.method, content_type=case.content_type)


def check(pair: Pair, case: Case) -> None:
    """Both answer alike, or the proxy answers itself as the case says."""
    if case.own is not None:
        check_own(asked(pair.proxy, case), case)
        if case.status is not None:
            assert asked(pair.engine, case).status == case.status, "the engine answers otherwise"
        return
    asked(pair.engine, case)  # what is cached from now on is cached for both
    for left in reversed(range(ATTEMPTS)):
        direct, proxied = asked(pair.engine, case), asked(pair.proxy, case)
        if left and pair.real and differs(direct, proxied, case):
            continue
        break
    if case.status is not None:
        assert direct.status == case.status, direct.body[:500]
    check_equal(direct, proxied, case, rounding=pair.real)


def same_but_rounding(direct: Reply, proxied: Reply) -> bool:
    """Whether two answers of embeddings differ in the last digits alone: an engine that is busy
    computes the parts of a request together or one after the other, and rounds otherwise.
    """
    if direct.streamed or direct.status != 200 or not NUMBER.search(direct.text()):
        return False
    pairs = [(NUMBER.split(r.text()), [*map(float, NUMBER.findall(r.text()))])
             for r in (direct, proxied)]  # fmt: skip
    (words, numbers), (other_words, others) = pairs
    return words == other_words and others == pytest.approx(numbers, rel=0.02, abs=0.002)


def same_but_words(direct: Reply, proxied: Reply) -> bool:
    """Whether two answers differ in what the model says alone: of conversations that are computed
    together in another order, another token may be the likeliest. The simulated engine says the
    same in any order.
    """
    one, other = (CONTENT.sub('"content":""', reply.text()) for reply in (direct, proxied))
    return one == other


def differs(direct: Reply, proxied: Reply, case: Case) -> bool:
    try:
        check_equal(direct, proxied, case)
    except AssertionError:
        return True
    return False


def check_equal(direct: Reply, proxied: Reply, case: Case, *, rounding: bool = False) -> None:
    assert proxied.status == direct.status, proxied.body[:500]
    for name in ("content-type", "metadata", "location"):
        assert kept(proxied, name) == kept(direct, name)
    assert proxied.end == direct.end
    if not direct.streamed:
        alike = rounding and (
            same_but_rounding(direct, proxied)
            or (case.path == BATCH and same_but_words(direct, proxied))
        )
        assert alike or proxied.text() == direct.text()
    elif case.choices:
        assert proxied.events_of_each_choice() == direct.events_of_each_choice()
    else:
        assert proxied.events() == direct.events()


def kept(reply: Reply, name: str) -> str | None:
    value = reply.header(name)
    if name != "metadata" or value is None:
        return value
    return Reply(200, (), value.encode()).text()


def check_own(reply: Reply, case: Case) -> None:
    """An error of the proxy's own, in the API's shape."""
    assert case.own is not None
    status, code = case.own
    assert reply.status == status, reply.body[:500]
    assert reply.header("content-type") == "application/json"
    error = reply.json()["error"]
    assert error["code"] == code
    assert error["message"]
    if case.path == MESSAGES:
        assert reply.json()["type"] == "error"
    else:
        assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("case", GENERATING_CASES, ids=lambda case: case.name)
def test_a_generating_engine_and_its_proxy_answer_alike(generating: Pair, case: Case) -> None:
    check(generating, case)


@pytest.mark.parametrize("case", POOLING_CASES, ids=lambda case: case.name)
def test_a_pooling_engine_and_its_proxy_answer_alike(pooling: Pair, case: Case) -> None:
    check(pooling, case)


def test_a_classifying_engine_and_its_proxy_answer_alike() -> None:
    """Simulated only: no classifier is small enough to be fetched for this."""
    with tempfile.TemporaryDirectory(prefix="pd-") as name, contextlib.ExitStack() as stack:
        engine = stack.enter_context(simulated(Path(name), CLASSIFIER, "--task", "classify"))
        proxy = stack.enter_context(proxy_for(serving(CLASSIFIER, engine)))
        for case in CLASSIFYING_CASES:
            check(Pair(engine, proxy.base_url, real=False), case)


def test_an_alias_is_answered_as_the_model_is(generating: Pair) -> None:
    for stream in (False, True):
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 3, "temperature": 0}
        body |= {"stream": stream}
        case = Case("alias", "/v1/completions", body)
        asked(generating.engine, case)
        by_alias = ask(generating.proxy, case.path, {**body, "model": "small"})
        assert by_alias.text() == asked(generating.engine, case).text()


def test_there_are_cases_enough_and_few_that_may_differ() -> None:
    cases = (*GENERATING_CASES, *POOLING_CASES, *CLASSIFYING_CASES)
    assert len({case.name for case in cases}) == len(cases)
    assert sum(case.own is None for case in cases) >= 150
    assert len({case.own for case in cases if case.own is not None}) <= 8
    assert {case.path for case in cases if case.own is None} == set(BY_PATH)


def test_the_page_of_endpoints_names_each_of_them() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/endpoints.md").read_text(encoding="utf-8")
    for path in (*BY_PATH, "/v1/models", "/v1/models/{id}", "/healthz", "/health", "/openapi.json"):
        assert f"`{path}`" in page


def test_an_engine_that_breaks_ends_its_streams_as_each_api_does() -> None:
    """vLLM tells of a broken engine inside the stream, but for responses, which it cuts off."""
    with tempfile.TemporaryDirectory(prefix="pd-") as name, contextlib.ExitStack() as stack:
        engine = stack.enter_context(simulated(Path(name), MODEL, "--break-at-token", "3"))
        proxy = stack.enter_context(proxy_for(serving(MODEL, engine)))
        for case in GENERATING_CASES:
            if case.name not in {"completions stream", "chat stream", "messages stream"}:
                continue
            direct, proxied = asked(engine, case), asked(proxy.base_url, case)
            assert proxied.events() == direct.events()
            assert '"error"' in direct.text()
        case = next(case for case in GENERATING_CASES if case.name == "responses stream")
        assert asked(engine, case).end == "cut off"
        proxied = asked(proxy.base_url, case)
        assert not proxied.end
        last = proxied.events()[-1].partition("data: ")[2]
        assert json.loads(last)["type"] in {"response.failed", "error"}
