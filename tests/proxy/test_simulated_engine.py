"""The proxy process works before the shipped simulated engine, with OpenAI's clients."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import openai
import pytest

from partitiond.proxy.supervisor import ProxyProcess
from tests.proxy.conftest import replica, table
from tests.proxy.virtual import real_time

pytestmark = real_time

Engine = tuple[Path, "subprocess.Popen[bytes]"]
StartEngine = Callable[..., Engine]


@pytest.fixture
async def start_engine(folder: Path) -> AsyncIterator[StartEngine]:
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *flags: str) -> Engine:
        path = folder / f"{name}.sock"
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "partitiond.simulated.engine", "--uds", str(path)),
                *("--model", "m", "--token-seconds", "0.005", *flags),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        return path, process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
async def proxy(folder: Path) -> AsyncIterator[ProxyProcess]:
    process = ProxyProcess(
        host="127.0.0.1", port=0, state_dir=folder, control_socket=folder / "run" / "p.sock"
    )
    await process.ensure_running()
    yield process
    await process.stop(0)


async def listening(path: Path) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_unix_connection(str(path))
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


def client_of(proxy: ProxyProcess) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{proxy.base_url}/v1",
        api_key="none",
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(verify=False),
    )


async def test_both_clients_complete_chat_and_stream(
    proxy: ProxyProcess, start_engine: StartEngine
) -> None:
    path, _ = start_engine("e")
    await listening(path)
    await proxy.publish(table(replica(path)))

    def with_the_sync_client() -> tuple[str, int]:
        with openai.OpenAI(
            base_url=f"{proxy.base_url}/v1",
            api_key="none",
            http_client=openai.DefaultHttpxClient(verify=False),
        ) as client:
            answer = client.completions.create(model="m", prompt="hi", max_tokens=5)
            chunks = client.completions.create(
                model="m", prompt="hi", max_tokens=5, stream=True,
                stream_options={"include_usage": True},
            )  # fmt: skip
            usage = [chunk.usage for chunk in chunks][-1]
            assert usage is not None
            return answer.choices[0].text, usage.completion_tokens

    text, tokens = await asyncio.to_thread(with_the_sync_client)
    assert text
    assert tokens == 5
    async with client_of(proxy) as client:
        chat = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=5, stream=True
        )
        said = "".join([c.choices[0].delta.content or "" async for c in chat if c.choices])
    assert said


async def test_an_engine_killed_under_load_harms_only_the_streams_it_had_begun(
    proxy: ProxyProcess, start_engine: StartEngine
) -> None:
    paths = [start_engine(name)[0] for name in ("a", "b")]
    # So slow that none of its streams is over before the kill, however slowly clients start.
    doomed, process = start_engine("c", "--token-seconds", "0.5")
    for path in (*paths, doomed):
        await listening(path)
    routes = [replica(path, path.stem, max_sequences=16) for path in (*paths, doomed)]
    await proxy.publish(table(*routes))

    begun: set[int] = set()

    async def one(number: int) -> str:
        async with client_of(proxy) as client:
            try:
                chunks = await client.completions.create(
                    model="m", prompt=f"hi {number}", max_tokens=300, stream=True,
                    extra_body={"ignore_eos": True},
                )  # fmt: skip
                async for _ in chunks:
                    begun.add(number)
            except openai.APIStatusError as error:
                return f"status {error.status_code}"
            except openai.APIError:
                return "broken"
            return "ok"

    running = [asyncio.create_task(one(number)) for number in range(30)]
    async with asyncio.timeout(120):
        while ((await proxy.in_flight()) or {}).get("c", 0) < 8:  # noqa: ASYNC110 -- its process
            await asyncio.sleep(0.01)
        while len(begun) <= 30 - 8:  # noqa: ASYNC110 -- then one of the eight has content, too
            await asyncio.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    outcomes = await asyncio.gather(*running)
    # 422: what the engine had only begun to read may be what it died of (docs/failing.md).
    assert set(outcomes) <= {"ok", "broken", "status 422"}
    assert 1 <= outcomes.count("broken") <= 16
    later = await asyncio.gather(*(one(number) for number in range(100, 110)))
    assert later == ["ok"] * 10
    assert set((await proxy.in_flight() or {"x": 1}).values()) == {0}
