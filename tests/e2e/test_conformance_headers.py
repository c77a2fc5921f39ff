"""The proxy passes, drops and adds the right headers, in both directions."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.conformance_cases import COMPLETIONS, MODEL
from tests.e2e.conformance_client import Reply, ask
from tests.e2e.conformance_engines import proxy_for, serving, simulated

BODY: Final = {"model": MODEL, "prompt": "Hello", "max_tokens": 2}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Path]:
    with simulated(folder, MODEL) as path:
        yield path


@pytest.fixture(scope="module")
def proxied(engine: Path) -> Iterator[str]:
    with proxy_for(serving(MODEL, engine)) as proxy:
        yield proxy.base_url


def names(reply: Reply) -> list[str]:
    return sorted(name for name, _ in reply.headers)


def test_every_answer_has_a_request_id_of_its_own(proxied: str) -> None:
    replies = [
        ask(proxied, COMPLETIONS, BODY),
        ask(proxied, COMPLETIONS, {**BODY, "stream": True}),
        ask(proxied, COMPLETIONS, {**BODY, "model": "other"}),
        ask(proxied, COMPLETIONS, b"no JSON"),
        ask(proxied, COMPLETIONS, {**BODY, "temperature": -1}),
        ask(proxied, "/v1/nothing", {}),
        ask(proxied, "/v1/models", method="GET"),
    ]
    found = [reply.header("x-request-id") for reply in replies]
    assert all(found)
    assert len(set(found)) == len(found)


def test_the_ids_of_answers_are_made_of_the_request_id(engine: Path, proxied: str) -> None:
    for where in (engine, proxied):
        reply = ask(where, COMPLETIONS, BODY, headers=[("x-request-id", "abc-123")])
        assert reply.json()["id"] == "cmpl-abc-123"


def test_whole_answers_have_the_engines_type_and_their_own_length(
    engine: Path, proxied: str
) -> None:
    direct, through = ask(engine, COMPLETIONS, BODY), ask(proxied, COMPLETIONS, BODY)
    assert through.header("content-type") == direct.header("content-type")
    assert through.header("content-length") == str(len(through.body))
    assert through.header("date")
    assert names(through) == ["content-length", "content-type", "date", "x-request-id"]


def test_streams_are_neither_stored_nor_held_back_on_their_way(engine: Path, proxied: str) -> None:
    body = {**BODY, "stream": True}
    direct, through = ask(engine, COMPLETIONS, body), ask(proxied, COMPLETIONS, body)
    assert through.header("content-type") == direct.header("content-type")
    assert through.header("transfer-encoding") == "chunked"
    assert through.header("cache-control") == "no-cache"
    assert through.header("x-accel-buffering") == "no"
    assert through.header("content-length") is None


@pytest.mark.parametrize("stream", [False, True])
def test_replica_and_times_are_told_when_asked(proxied: str, stream: bool) -> None:
    body = {**BODY, "stream": stream}
    asked = ask(proxied, COMPLETIONS, body, headers=[("x-partitiond-debug", "1")])
    assert asked.header("x-partitiond-replica") == f"{MODEL}-0"
    assert asked.header("x-partitiond-attempts") == "1"
    queued = float(asked.header("x-partitiond-queue-ms") or "nan")
    first_byte = float(asked.header("x-partitiond-first-byte-ms") or "nan")
    assert 0 <= queued <= first_byte
    for headers in ((), (("x-partitiond-debug", "0"),)):
        plain = ask(proxied, COMPLETIONS, body, headers=headers)
        assert not [name for name in names(plain) if name.startswith("x-partitiond")]
