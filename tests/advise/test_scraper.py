"""Engines are looked at: servers that answer as a real one, and servers that fail."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from partitiond.advise import scraper
from partitiond.advise.identify import ServedName
from partitiond.advise.scraper import look, served_of
from partitiond.core.errors import SpecError
from tests.advise.looks import DATA
from tests.advise.servers import serving
from tests.machine import pace

TEXT = (DATA / "vllm-0.32.0-cpu-10.txt").read_text()
MODELS = (DATA / "vllm-0.32.0-models.json").read_text()


async def missed(address: str) -> str:
    """Why a look tells nothing of this address."""
    seen = await look([address], lambda: 7.0)
    assert (seen.at_seconds, seen.readings, seen.served) == (7.0, {}, {})
    return seen.missed[address]


async def test_a_look_asks_each_address_for_its_metrics_and_its_models() -> None:
    with (
        serving(lambda path: (200, MODELS if path == "/v1/models" else TEXT)) as one,
        serving(lambda path: (200, TEXT) if path == "/metrics" else (401, "")) as two,
    ):
        seen = await look([one, f"{two}/metrics"])
    assert {key.address for key in seen.readings} == {one, f"{two}/metrics"}
    assert seen.missed == {}
    assert seen.served[one]["smollm2-135m"] == ServedName("/models/smollm2-135m", 512)
    assert seen.served[f"{two}/metrics"] == {}


async def test_what_is_no_engine_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for status, text, said in (
        (404, "no", "it says 404"),
        (200, "process_cpu_seconds_total 1\n", "not with a vLLM's metrics"),
        (200, "<html>vllm:num_requests_running", "not with a vLLM's metrics"),
    ):
        with serving(lambda _, it=(status, text): it) as address:  # type: ignore[misc]
            assert said in await missed(address)
    assert "does not answer" in await missed(f"unix:{tmp_path}/none.sock")
    with pytest.raises(SpecError, match="no address of an engine"):
        await look(["http://[::1"])
    monkeypatch.setattr(scraper, "MAX_BYTES", 1000)
    with serving(lambda _: (200, TEXT)) as address:
        assert "more than 1000 bytes" in await missed(address)


async def test_what_listens_here_is_asked_itself_and_elsewhere_a_proxy_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    for address in ("http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9"):
        assert "does not answer" in await missed(address)
    with pytest.raises(SpecError, match="SOCKS"):
        await look(["http://engines.invalid:8000"])


async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    with contextlib.suppress(ConnectionError), contextlib.closing(writer):
        while True:
            writer.write(b"#")
            await writer.drain()
            await pace(0.02)


async def test_an_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper, "TIMEOUT_SECONDS", 0.2)
    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(60):
            assert "no whole answer within 0.2 s" in await missed(f"http://127.0.0.1:{port}")
    finally:
        server.close()


async def test_odd_lists_of_models_name_nothing() -> None:
    assert served_of({"root": None, "max_model_len": "many"}) == ServedName()
    for models in ("[]", '{"data": null}', '{"data": [3, {}]}', "[" * 100_000):
        with serving(lambda p, it=models: (200, it if p == "/v1/models" else TEXT)) as address:  # type: ignore[misc]
            assert (await look([address])).served[address] == {}
