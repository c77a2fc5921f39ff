"""Keeps a program running beside this process: the bridge, or Ray's keeper without a unit."""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

PAUSES_SECONDS: Final = (0.2, 1.0, 2.0, 5.0)
"""Pauses before the program is started again, the last one for ever. Chosen: a bridge takes 1.3 s
to start, and a head whose Ray is away is to be reached soon after its return."""
STEADY_SECONDS: Final = 60.0
"""Time that the program has to run for the pauses to begin anew."""
END_SECONDS: Final = 5.0
"""Time for a program to end by itself, unless it says how long it takes."""
LOG_BYTES: Final = 1024 * 1024
"""Size from which the program's log is begun anew."""


@dataclasses.dataclass(slots=True)
class KeptProgram:
    """A program that is started again whenever it has ended.

    Its standard input ends with this process.

    Attributes:
        name: in words.
        log_path: file for what the program prints.
        mark: begins the lines of the log that are its own.
        end_seconds: longest time for it to end, before it is killed.
        process: the one that runs now; None between two.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path
    mark: str = ""
    end_seconds: float = END_SECONDS
    process: asyncio.subprocess.Process | None = None

    async def keep(self) -> None:
        """Keep it running until this is cancelled; then it ends. Raises OSError."""
        loop, tried = asyncio.get_running_loop(), 0
        while True:
            started = loop.time()
            process = self.process = await self._start()
            try:
                code = await process.wait()
            finally:
                self.process = None
                await _end(process, self.end_seconds)
            tried = 0 if loop.time() - started > STEADY_SECONDS else tried + 1
            pause = PAUSES_SECONDS[min(tried, len(PAUSES_SECONDS) - 1)]
            log.warning(
                "%s ended (exit status %s): %s; started again in %g s",
                self.name, code, await asyncio.to_thread(self.last_words), pause,
            )  # fmt: skip
            await asyncio.sleep(pause)

    async def _start(self) -> asyncio.subprocess.Process:
        self.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.log_path.open("ab") as output:
            if output.tell() > LOG_BYTES:
                output.truncate(0)
            return await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=dict(self.environment),
                cwd="/",
                start_new_session=True,
            )

    def last_words(self) -> str:
        """Return the last line of the log that is its own; the others are Ray's. Blocks."""
        with contextlib.suppress(OSError):
            text = self.log_path.read_bytes()[-65536:].decode(errors="replace")
            for line in reversed(text.splitlines()):
                if line.startswith(self.mark):
                    return line.removeprefix(self.mark)
        return "it said nothing"


async def _end(process: asyncio.subprocess.Process, seconds: float) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
