"""Runs engines as processes that can be killed, stopped and restarted on the same socket."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

TOKEN_SECONDS = 0.02


class EngineProcess:
    """One engine on one socket.

    Attributes:
        generation: how often it was started; a routing table's `generation`.
    """

    def __init__(self, path: Path, *command: str) -> None:
        self.path = path
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self.generation = 0

    async def start(self) -> None:
        """Start it and wait until it listens."""
        self.path.unlink(missing_ok=True)
        self.generation += 1
        self._process = subprocess.Popen(  # noqa: ASYNC220 -- a fork and an exec, not a wait
            [sys.executable, *self._command, "--uds", str(self.path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parent.parent.parent,
        )
        async with asyncio.timeout(60):
            while not await self._listens():  # noqa: ASYNC110 -- another process: no event
                await asyncio.sleep(0.02)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(self.path))
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return True

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it at once, stopped or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def terminate(self) -> None:
        """Ask it to end, and wait until it has."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self._process.wait, 20)

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None


def simulated(path: Path, *flags: str) -> EngineProcess:
    """The simulated engine that partitiond ships."""
    speed = ("--token-seconds", str(TOKEN_SECONDS), "--max-num-seqs", "32")
    command = ("-m", "partitiond.simulated.engine", "--model", "m", *speed, *flags)
    return EngineProcess(path, *command)


def mortal(path: Path) -> EngineProcess:
    """An echo engine that dies of a request that says `poison=1`."""
    return EngineProcess(path, "-m", "tests.chaos.echo_engine", "--dies-on-poison")


@contextlib.asynccontextmanager
async def engines(
    folder: Path, count: int, make: Callable[[Path], EngineProcess]
) -> AsyncIterator[list[EngineProcess]]:
    """So many of them, all started."""
    made = [make(folder / f"e{number}.sock") for number in range(count)]
    try:
        await asyncio.gather(*(engine.start() for engine in made))
        yield made
    finally:
        for engine in made:
            engine.kill()
