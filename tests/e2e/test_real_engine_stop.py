"""The proxy handles a real vLLM that is stopped and goes on, and one that is killed.

One engine serves both tests: it is stopped first and killed last.
"""

import asyncio
import signal
from pathlib import Path

import pytest

from partitiond.core.replica.engine import EngineHandle
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.engines.process import signals as process
from partitiond.engines.process.signals import ProcessId
from partitiond.proxy.dispatch.replicas import listens
from tests.chaos.raw_client import Answer, RawClient, ask
from tests.chaos.rig import ProxyUnderTest, proxy_under_test, replica, until
from tests.chaos.verdicts import check_error, read_stream
from tests.engine_fixtures import (
    chat_model_folder,
    engine_environment,
    make_runner,
    short_dir,
    vllm_launch,
)
from tests.machine import signal_all

__all__ = ["chat_model_folder", "engine_environment", "short_dir"]

pytestmark = [
    pytest.mark.engine,
    pytest.mark.soak,
]

START_SECONDS = 480.0
BETWEEN_SECONDS = 3.0
STREAM_SECONDS = 480.0
"""A limit against hangs: a busy machine may make less than four tokens a second."""

LONG = 200
"""Tokens of a stream: seconds of them, so that what happens happens in it."""


def engine_pids(handle: EngineHandle) -> list[int]:
    """All of the engine's processes but its shim."""
    identity = ProcessId(handle.pid, handle.start_ticks, handle.boot_id)
    return [
        pid for pid in process.processes_of(Path(handle.run_dir), identity) if pid != handle.pid
    ]


class Running:
    """A stream that is under way; it ends after `tokens`, whatever the model thinks of it."""

    def __init__(self, proxy: ProxyUnderTest, tokens: int) -> None:
        self._client = RawClient(proxy.port)
        self.answer = asyncio.create_task(self._ask(tokens))

    async def _ask(self, tokens: int) -> Answer:
        with self._client as client:
            return await ask(
                client,
                "Once upon",
                stream=True,
                max_tokens=tokens,
                seconds=STREAM_SECONDS,
                temperature=0,
                ignore_eos=True,
            )

    async def begun(self) -> None:
        """Wait for its first content."""
        async with asyncio.timeout(60):
            await self._client.begun.wait()


async def stream(proxy: ProxyUnderTest, tokens: int) -> Answer:
    return await Running(proxy, tokens).answer


def text_and_error(answer: Answer) -> tuple[str, object | None]:
    assert answer.status == 200, answer
    assert answer.complete, f"cut off without a word: {answer}"
    return read_stream(answer.body, is_chat=False)


async def test_a_stopped_and_a_killed_vllm_end_their_streams_as_promised(
    short_dir: Path, engine_environment: EngineEnvironment, chat_model_folder: Path
) -> None:
    runner = make_runner(short_dir / "run", engine_environment)
    handle = await runner.start(vllm_launch(chat_model_folder))
    try:
        await runner.wait_ready(handle, START_SECONDS, lambda _phase: None)
        options = {"between_tokens_timeout_seconds": BETWEEN_SECONDS, "client_timeout_seconds": 60}
        async with proxy_under_test(short_dir / "proxy", **options) as proxy:
            await proxy.publish([replica(Path(handle.socket_path), "m-0")], served_name="tiny")
            await stops(proxy, handle)
            await dies(proxy, handle)
    finally:
        await runner.stop(handle, 0.0)


async def stops(proxy: ProxyUnderTest, handle: EngineHandle) -> None:
    """A short stop is a pause, a long one an error; and it serves again afterwards."""
    whole, _ = text_and_error(await stream(proxy, 16))
    assert whole
    paused = Running(proxy, LONG)
    await paused.begun()
    signal_all(engine_pids(handle), signal.SIGSTOP)
    await asyncio.sleep(BETWEEN_SECONDS / 3)
    signal_all(engine_pids(handle), signal.SIGCONT)
    text, error = text_and_error(await paused.answer)
    assert text
    assert error is None, error
    broken = Running(proxy, LONG)
    await broken.begun()
    signal_all(engine_pids(handle), signal.SIGSTOP)
    try:
        text, error = text_and_error(await broken.answer)
    finally:
        signal_all(engine_pids(handle), signal.SIGCONT)
    assert text
    assert isinstance(error, dict)
    assert error["code"] == "upstream_between_tokens_timeout"
    await proxy.settle()
    again, error = text_and_error(await stream(proxy, 16))
    assert again
    assert error is None


async def dies(proxy: ProxyUnderTest, handle: EngineHandle) -> None:
    """Its streams end with an error event, what comes afterwards is refused at once."""
    running = [Running(proxy, LONG) for _ in range(3)]
    await asyncio.gather(*(each.begun() for each in running))
    signal_all(engine_pids(handle), signal.SIGKILL)
    ends = [text_and_error(await each.answer) for each in running]
    print(f"\nkilled vLLM: {[(len(text), error) for text, error in ends]}")
    for text, error in ends:
        assert text
        assert isinstance(error, dict)
    await proxy.settle()
    # The engine's processes share the listener: the last of them closes it.
    await until(lambda: not listens(handle.socket_path), "the killed engine still listens")
    refused = await stream(proxy, 4)
    assert refused.status == 503, refused
    check_error(refused)
