"""Runs a helper program to its end: passes its lines on, with a deadline and no leftovers."""

import asyncio
import contextlib
import dataclasses
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

_TAIL_LINES: Final = 20
"""Lines kept for an error message; the reason is at the end."""


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessResult:
    """The end of a program.

    Attributes:
        code: exit status; negative for a signal.
        tail: last lines it printed, standard error included.
        timed_out: it was killed at a deadline.
    """

    code: int
    tail: tuple[str, ...]
    timed_out: bool = False

    @property
    def last_line(self) -> str:
        """The last line that is not blank, or empty."""
        return next((line for line in reversed(self.tail) if line.strip()), "")


async def run(
    command: Sequence[str],
    *,
    timeout_seconds: float,
    first_line_seconds: float | None = None,
    on_line: Callable[[str], None] | None = None,
    extra_env: Mapping[str, str] | None = None,
) -> ProcessResult:
    """Run `command` in a session of its own; its whole process group is dead on return.

    Args:
        command: program and arguments.
        timeout_seconds: deadline for the whole run.
        first_line_seconds: deadline for the first line.
        on_line: called with each line that the program prints.
        extra_env: added to the environment.

    Raises:
        OSError: the program cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(extra_env or {})},
        start_new_session=True,
        limit=1024 * 1024,  # progress bars are one long line until the program ends
    )
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    timed_out = False
    try:
        async with asyncio.timeout(timeout_seconds):
            await _read(process, tail, first_line_seconds, on_line)
            await process.wait()
    except TimeoutError:
        timed_out = True
    finally:
        # On cancellation as well: a helper must not outlive its caller.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())
    return ProcessResult(process.returncode or 0, tuple(tail), timed_out)


async def _read(
    process: asyncio.subprocess.Process,
    tail: deque[str],
    first_line_seconds: float | None,
    on_line: Callable[[str], None] | None,
) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(first_line_seconds):
        line = await process.stdout.readline()
    while line:
        text = line.decode(errors="replace").rstrip("\n")
        tail.append(text.rsplit("\r", 1)[-1])
        if on_line is not None:
            on_line(text)
        line = await process.stdout.readline()
