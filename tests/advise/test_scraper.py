"""Engines are scraped: the shipped simulated one over its socket, and servers that fail."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from partitiond.advise import scraper
from partitiond.advise.identify import ServedName
from partitiond.advise.scraper import ScrapedEngines, served_of, watch
from partitiond.core.errors import SpecError, UpstreamError
from tests.advise.looks import DATA
from tests.advise.servers import Answer, serving
from tests.engine_fixtures import short_dir
from tests.machine import pace

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


async def test_looks_come_as_often_as_asked_and_the_name_is_looked_up_once() -> None:
    paths: list[str] = []

    def answer(path: str) -> Answer:
        paths.append(path)
        return 200, MODELS if path == "/v1/models" else TEXT

    with serving(answer) as address:
        seen = await look([address, f"{address}/metrics"], seconds=20, every=5)
    assert seen.answered == {address: 5, f"{address}/metrics": 5}
    for readings in seen.readings.values():
        assert [reading.at_seconds for reading in readings] == [0, 5, 10, 15, 20]
    assert paths.count("/v1/models") == 2
    assert set(paths) == {"/metrics", "/v1/models"}
    assert seen.served[address]["smollm2-135m"] == ServedName("/models/smollm2-135m", 512)


async def test_an_engine_that_fails_later_loses_looks_not_the_advice() -> None:
    answers = iter([(200, TEXT), (503, "busy"), (200, TEXT), (500, ""), (200, TEXT)])

    with serving(lambda path: next(answers) if path == "/metrics" else (401, "")) as address:
        seen = await look([address])
    assert seen.answered == {address: 3}
    assert [len(readings) for readings in seen.readings.values()] == [3]
    count, reason = seen.missed[address]
    assert count == 2
    assert "500" in reason
    assert seen.served.get(address, {}) == {}


async def test_what_is_no_engine_is_found_out_at_the_first_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Answer] = [(404, "no"), (200, "process_cpu_seconds_total 1\n")]
    for answer in answers:
        with serving(lambda _, it=answer: it) as address:  # type: ignore[misc]
            with pytest.raises(UpstreamError) as refused:
                await look([address], seconds=3600)
        assert address in refused.value.message
        assert refused.value.hint
    with pytest.raises(UpstreamError, match="does not answer"):
        await look([f"unix:{tmp_path}/none.sock"], seconds=3600)
    with pytest.raises(SpecError, match="no address of an engine"):
        await look(["http://[::1"])
    monkeypatch.setattr(scraper, "MAX_BYTES", 1000)
    with serving(lambda _: (200, TEXT)) as address:
        with pytest.raises(UpstreamError, match="more than 1000 bytes"):
            await look([address])


async def test_what_listens_here_is_asked_itself_and_elsewhere_a_proxy_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    for address in ("http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9"):
        with pytest.raises(UpstreamError):
            await look([address])
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
            with pytest.raises(UpstreamError, match=r"no whole answer within 0\.2 s"):
                await look([f"http://127.0.0.1:{port}"])
    finally:
        server.close()


async def test_odd_lists_of_models_name_nothing() -> None:
    assert served_of({"root": None, "max_model_len": "many"}) == ServedName()
    for models in ("[]", '{"data": null}', '{"data": [3, {}]}', "[" * 100_000):
        with serving(lambda p, it=models: (200, it if p == "/v1/models" else TEXT)) as address:  # type: ignore[misc]
            watched = await look([address], seconds=5)
        assert not watched.served.get(address)
