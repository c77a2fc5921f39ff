"""The proxy changes nothing: a bare engine and the proxy answer the same requests alike.

Answers are compared byte by byte except for ids and times: status, content type, whole bodies,
every event of a stream. `conformance_cases` lists the requests that the proxy answers itself.
"""

import contextlib
import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
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
    RESPONSES,
    Case,
)
from tests.e2e.conformance_client import Reply, ask
from tests.e2e.conformance_engines import (
    proxy_for,
    real_generating,
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


Engines = Callable[[str, str], Pair]
REAL_ALONE: Final = (BATCH, RESPONSES)
"""Paths that the simulated engine does not serve."""
UNREAD: Final = {"completions an unknown response format", "chat a schema without a schema"}
"""It takes any form of an answer, and keeps none."""


@pytest.fixture(scope="module")
def engines(request: pytest.FixtureRequest) -> Iterator[Engines]:
    """Starts an engine of a kind ("simulated" or "vllm") for a model, with a proxy; each once."""
    found: dict[tuple[str, str], Pair] = {}
    with contextlib.ExitStack() as stack:

        def start(kind: str, model: str) -> Pair:
            flags = ("--runner", "pooling", "--convert", "embed") if model == POOL else ()
            if kind == "vllm":
                environment = request.getfixturevalue("engine_environment")
                folder = request.getfixturevalue("chat_model_folder")
                engine = stack.enter_context(real_generating(environment, folder, model, *flags))
            else:
                run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pd-")))
                engine = stack.enter_context(simulated(run, model, *flags))
            aliases = ("small",) if model == MODEL else ()
            proxy = stack.enter_context(proxy_for(serving(model, engine, aliases=aliases)))
            return Pair(engine, proxy.base_url, real=kind == "vllm")

        def pair(kind: str, model: str) -> Pair:
            if (kind, model) not in found:
                found[kind, model] = start(kind, model)
            return found[kind, model]

        yield pair


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
    if case.path.startswith(MESSAGES) and direct.status != 200:
        # vLLM's own refusals are not in the API's shape here: the words are the engine's.
        told, found = direct.json(), proxied.json()
        assert (found["type"], found["error"]["type"]) == ("error", "invalid_request_error")
        assert found["error"]["message"] == told.get("error", told)["message"]
    elif not direct.streamed:
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


def kind_of(case: Case) -> tuple[object, ...]:
    """Path and stream of a case, and how it is answered: the real engine shows one of each."""
    stream = isinstance(case.body, Mapping) and bool(case.body.get("stream"))
    return case.path, stream, case.status == 200, case.own is None


def cases() -> Iterator[object]:
    """Each with the simulated engine; with the real one, one of each kind, and in `soak` all."""
    seen = set()
    for model, found in ((MODEL, GENERATING_CASES), (POOL, POOLING_CASES)):
        for case in found:
            if case.path not in REAL_ALONE and case.name not in UNREAD:
                yield pytest.param("simulated", model, case, id=f"simulated-{case.name}")
            tier = pytest.mark.soak if kind_of(case) in seen else pytest.mark.full
            seen.add(kind_of(case))
            yield pytest.param(
                "vllm", model, case, id=f"vllm-{case.name}", marks=[pytest.mark.engine, tier]
            )


@pytest.mark.parametrize(("kind", "model", "case"), [*cases()])
def test_an_engine_and_its_proxy_answer_alike(
    engines: Engines, kind: str, model: str, case: Case
) -> None:
    check(engines(kind, model), case)


def test_a_classifying_engine_and_its_proxy_answer_alike() -> None:
    """Simulated only: no classifier is small enough to be fetched for this."""
    with tempfile.TemporaryDirectory(prefix="pd-") as name, contextlib.ExitStack() as stack:
        engine = stack.enter_context(simulated(Path(name), CLASSIFIER, "--convert", "classify"))
        proxy = stack.enter_context(proxy_for(serving(CLASSIFIER, engine)))
        for case in CLASSIFYING_CASES:
            check(Pair(engine, proxy.base_url, real=False), case)


def test_an_alias_is_answered_as_the_model_is(engines: Engines) -> None:
    generating = engines("simulated", MODEL)
    for stream in (False, True):
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 3, "temperature": 0}
        body |= {"stream": stream}
        case = Case("alias", "/v1/completions", body)
        asked(generating.engine, case)
        by_alias = ask(generating.proxy, case.path, {**body, "model": "small"})
        assert by_alias.events() == asked(generating.engine, case).events()


def test_there_are_cases_enough_and_few_that_may_differ() -> None:
    cases = (*GENERATING_CASES, *POOLING_CASES, *CLASSIFYING_CASES)
    assert len({case.name for case in cases}) == len(cases)
    assert sum(case.own is None for case in cases) >= 150
    assert len({case.own for case in cases if case.own is not None}) <= 8
    assert {case.path for case in cases if case.own is None} == set(BY_PATH)


def test_the_page_of_endpoints_names_each_of_them() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/endpoints.md").read_text(encoding="utf-8")
    for path in (*BY_PATH, "/v1/models", "/v1/models/{id}", "/healthz", "/health"):
        assert f"`{path}`" in page


def test_an_engine_that_breaks_ends_its_streams_as_each_api_does() -> None:
    """vLLM tells of a broken engine inside the stream."""
    with tempfile.TemporaryDirectory(prefix="pd-") as name, contextlib.ExitStack() as stack:
        engine = stack.enter_context(simulated(Path(name), MODEL, "--break-at-token", "3"))
        proxy = stack.enter_context(proxy_for(serving(MODEL, engine)))
        for case in GENERATING_CASES:
            if case.name not in {"completions stream", "chat stream", "messages stream"}:
                continue
            direct, proxied = asked(engine, case), asked(proxy.base_url, case)
            assert proxied.events() == direct.events()
            assert '"error"' in direct.text()
