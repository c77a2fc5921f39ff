"""Engines are scraped: the shipped simulated one over its socket, and servers that fail."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from partitiond.advise.identify import ServedName
from partitiond.advise.observe import observe
from partitiond.advise.sources import scraper
from partitiond.advise.sources.scraper import ScrapedEngines, served_of, watch
from partitiond.core.errors import SpecError, UpstreamError
from partitiond.core.replica.engine import EngineHandle
from partitiond.engines.process.runner import ProcessEngineRunner
from tests.advise.looks import DATA
from tests.advise.servers import Answer, serving
from tests.engine_fixtures import short_dir, simulated_launch

__all__ = ["short_dir"]

TEXT = (DATA / "vllm-0.32.0-cpu-10.txt").read_text()
MODELS = (DATA / "vllm-0.32.0-models.json").read_text()


class FakeTime:
    """A clock that only moves when slept on."""

    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def clock(self) -> float:
        return self.now


async def look(addresses: list[str], seconds: float = 20.0, every: float = 5.0) -> ScrapedEngines:
    time, watched = FakeTime(), ScrapedEngines()
    return await watch(
        addresses, seconds=seconds, every_seconds=every, into=watched,
        clock=time.clock, sleep=time.sleep,
    )  # fmt: skip


@pytest.fixture
async def engine(short_dir: Path) -> AsyncIterator[EngineHandle]:
    runner = ProcessEngineRunner(short_dir, None)
    handle = await runner.start(simulated_launch())
    await runner.wait_ready(handle, 20)
    yield handle
    await runner.stop(handle, 5)


async def test_the_simulated_engine_is_seen_as_it_is(engine: EngineHandle) -> None:
    address = f"unix:{engine.socket_path}"
    before = await look([address], seconds=5)
    transport = httpx.AsyncHTTPTransport(uds=engine.socket_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        body = {"model": "tiny", "prompt": [5] * 64, "max_tokens": 8, "ignore_eos": True}
        answers = [client.post("/v1/completions", json=body, timeout=300) for _ in range(6)]
        await asyncio.gather(*answers)
    after = await look([address], seconds=5)

    (window,) = observe({"a": [*before.scrapes[address], *after.scrapes[address]]})
    assert window.key.model == "tiny"
    assert sum(s.arrivals for s in window.stretches) == 6
    assert (window.prompt_tokens, window.output_tokens) == (6 * 64, 6 * 8)
    assert window.kv_tokens > 4000
    assert after.served[address]["tiny"].max_model_len == 512


async def test_looks_come_as_often_as_asked_and_the_name_is_looked_up_once() -> None:
    paths: list[str] = []

    def answer(path: str) -> Answer:
        paths.append(path)
        return 200, MODELS if path == "/v1/models" else TEXT

    with serving(answer) as address:
        seen = await look([address, f"{address}/metrics"], seconds=20, every=5)
    assert {len(scrapes) for scrapes in seen.scrapes.values()} == {5}
    assert [s.at_seconds for s in seen.scrapes[address]] == [0, 5, 10, 15, 20]
    assert paths.count("/v1/models") == 2
    assert set(paths) == {"/metrics", "/v1/models"}
    assert seen.served[address]["smollm2-135m"] == ServedName("/models/smollm2-135m", 512)


async def test_an_engine_that_fails_later_loses_looks_not_the_advice() -> None:
    answers = iter([(200, TEXT), (503, "busy"), (200, TEXT), (500, ""), (200, TEXT)])

    with serving(lambda path: next(answers) if path == "/metrics" else (401, "")) as address:
        seen = await look([address])
    assert len(seen.scrapes[address]) == 3
    count, reason = seen.missed[address]
    assert count == 2
    assert "500" in reason
    assert seen.served.get(address, {}) == {}


@pytest.mark.parametrize("answer", [(404, "no"), (200, "process_cpu_seconds_total 1\n")])
async def test_a_wrong_address_is_found_out_at_the_first_look(answer: Answer) -> None:
    with serving(lambda _: answer) as address:
        with pytest.raises(UpstreamError) as refused:
            await look([address], seconds=3600)
    assert address in refused.value.message
    assert refused.value.hint


async def test_nobody_there_is_found_out_at_the_first_look(tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="does not answer"):
        await look([f"unix:{tmp_path}/none.sock"], seconds=3600)


async def test_an_endless_answer_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partitiond.advise.sources.scraper.MAX_BYTES", 1000)
    with serving(lambda _: (200, TEXT)) as address:
        with pytest.raises(UpstreamError, match="more than 1000 bytes"):
            await look([address])


def test_odd_entries_of_models_tell_nothing() -> None:
    assert served_of({"root": None, "max_model_len": "many"}) == ServedName()


async def test_an_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper, "TIMEOUT_SECONDS", 0.2)

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while True:
                writer.write(b"#")
                await writer.drain()
                await asyncio.sleep(0.02)

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(60):
            with pytest.raises(UpstreamError, match=r"no whole answer within 0\.2 s"):
                await look([f"http://127.0.0.1:{port}"])
    finally:
        server.close()


async def test_a_broken_address_is_refused() -> None:
    with pytest.raises(SpecError, match="no address of an engine"):
        await look(["http://[::1"])


@pytest.mark.parametrize("models", ["[]", '{"data": null}', '{"data": [3, {}]}', "[" * 100_000])
async def test_odd_lists_of_models_name_nothing(models: str) -> None:
    def answer(path: str) -> Answer:
        return (200, models) if path == "/v1/models" else (200, TEXT)

    with serving(answer) as address:
        watched = await look([address], seconds=5)
    assert not watched.served.get(address)
