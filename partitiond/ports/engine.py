"""Defines the runner of engines: how one is started, watched and ended."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from partitiond.core.replica.engine import EngineExit, EngineHandle, EngineLaunch, EngineReport


@runtime_checkable
class ReturningEngines(Protocol):
    """An engine runner over hosts that come and go."""

    async def returned(self) -> Sequence[EngineHandle]:
        """Return the living engines of the hosts that answer again since they were asked last."""
        ...

    def knows(self, host: str) -> bool:
        """Return whether it is known which engines run on the host."""
        ...


class EngineRunner(Protocol):
    """Starts, finds, watches and ends engine processes."""

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        """Spawn and return at once; readiness is `wait_ready`.

        Raises EngineUnavailableError, StartFailedError.
        """
        ...

    async def wait_ready(
        self,
        handle: EngineHandle,
        deadline_seconds: float,
        progress: Callable[[str], None] | None = None,
    ) -> EngineReport:
        """Wait for a real completion. Raises StartFailedError, StartTimedOutError."""
        ...

    async def probe(self, handle: EngineHandle, timeout_seconds: float) -> bool:
        """Return whether the engine answers for one token within the time."""
        ...

    async def report(self, handle: EngineHandle) -> EngineReport:
        """Return one scrape of its metrics. Raises EngineError if it cannot be reached."""
        ...

    async def sleep(self, handle: EngineHandle, level: int) -> None:
        """Make the engine give up its KV cache and weights; nothing may be in flight.

        At level 1 the engine keeps its weights in host memory; at level 2 it reads them again when
        it is woken. Returns once the engine's memory is free.

        Raises:
            EngineError: the engine refuses or does not answer. Its memory is then unknown: end it.
        """
        ...

    async def wake(self, handle: EngineHandle) -> None:
        """Wake the engine from any level; returns once it answers a completion. Repeatable.

        Raises:
            EngineError: the engine refuses or does not answer. Its memory is then unknown: end it.
        """
        ...

    async def sleep_level(self, handle: EngineHandle, timeout_seconds: float) -> int:
        """Return the sleep level; 0 is awake. One whose wake was cut off counts as asleep.

        Raises:
            EngineError: the engine does not answer in time, so it is not even well asleep.
        """
        ...

    async def wait_exit(self, handle: EngineHandle) -> EngineExit:
        """Return once the process is gone; works for engines this process did not start."""
        ...

    async def stop(self, handle: EngineHandle, grace_seconds: float) -> EngineExit:
        """Terminate, then kill the whole group; no process is left on return. Idempotent."""
        ...

    async def find(self) -> Sequence[EngineHandle]:
        """Return the living engines of this state folder, whoever started them (for adoption).

        Kills process groups whose leader is gone, and removes run folders of dead engines.
        """
        ...

    def peak_memory_bytes(self, handle: EngineHandle) -> int:
        """Return the peak proportional set size of the engine's processes so far (sampled), in
        bytes.
        """
        ...

    async def held_bytes(self, handle: EngineHandle) -> int:
        """Return the host memory that the engine's processes hold now, as a footprint is measured.

        Raises SilentError: /proc or the host does not answer.
        """
        ...


@runtime_checkable
class Discards(Protocol):
    """An engine runner that keeps files of engines that are gone, and can remove them."""

    async def discard(self, handle: EngineHandle) -> None:
        """Remove the files of an engine that was stopped."""
        ...
