"""Keeps the process that engines are forked from, and starts engines by it (`warm_parent`)."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import StartFailedError
from partitiond.core.replica.engine import EngineLaunch
from partitiond.engines.process import shim, warm_parent
from partitiond.engines.process import signals as process
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.spawn import SHIM_SECONDS, shim_command, shim_environment
from partitiond.engines.vllm.launch import TRACING_ENVIRONMENT
from partitiond.platform.process_identity import ProcessId, boot_id, start_ticks

log = logging.getLogger(__name__)

MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "vllm": (
        "vllm.entrypoints.openai.api_server",
        "vllm.v1.engine.async_llm",
        "vllm.v1.engine.core",
        "vllm.v1.engine.core_client",
        "vllm.v1.executor.uniproc_executor",
        "vllm.v1.worker.cpu_worker",
        "vllm.v1.worker.cpu_model_runner",
        "vllm.model_executor.model_loader",
        "vllm.model_executor.models.llama",
        "transformers",
        "setproctitle",
    )
}
"""By the kind of engine: what it imports until it serves on a CPU, of vLLM 0.32."""
ONE_PROCESS: Final = "VLLM_ENABLE_V1_MULTIPROCESSING"
"""Variable of versions whose worker is in the engine core's process (`capabilities`): others have
not been forked here."""
OF_ONE_ENGINE: Final = frozenset(
    {
        "HOME",
        "TMPDIR",
        "OMP_NUM_THREADS",
        "VLLM_CPU_OMP_THREADS_BIND",
        *TRACING_ENVIRONMENT,
        process.REPLICA_DIR_VARIABLE,
    }
)
"""Variables that a forked engine may have otherwise than its parent: all are read after imports."""
WAIT_SECONDS: Final = 180.0
"""Longest wait for the imports. An engine that imports by itself takes as long: 60 s were too few
at a load of 9 (`bench.serving.starts`)."""
AGAIN_SECONDS: Final = 300.0
"""Until a parent that failed is tried again. Chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class WarmKey:
    """What engines of one parent have in common.

    Attributes:
        python: the interpreter.
        env: environment of the imports.
        modules: what is imported.
    """

    python: str
    env: tuple[tuple[str, str], ...]
    modules: tuple[str, ...]


def warm_key(
    launch: EngineLaunch, command: Mapping[str, Any], modules: Mapping[str, tuple[str, ...]]
) -> WarmKey | None:
    """Return what a parent needs to fork an engine; None for an engine that is not forked.

    Engines on GPUs start processes of their own, and no GPU has shown yet how these take a fork. An
    engine with an environment of its own may want it while it imports, and one of another user has
    no parent here.

    Args:
        command: of the engine (`commands`).
        modules: by the kinds of engines that are forked.
    """
    imports = modules.get(launch.engine_kind, ())
    if not imports or launch.visible_device or launch.extra_env or "launcher" in command:
        return None
    if launch.engine_kind == "vllm" and ONE_PROCESS not in command["env"]:
        return None
    python = str(command["argv"][0])
    env = {name: text for name, text in command["env"].items() if name not in OF_ONE_ENGINE}
    return WarmKey(python, tuple(sorted(env.items())), imports)


class WarmParent:
    """One process that has imported the engine.

    Attributes:
        key: what it was made for.
        process: once it has begun.
    """

    def __init__(self, key: WarmKey, home: Path, seconds: float) -> None:
        self.key = key
        self._home, self._seconds = home, seconds
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        weakref.finalize(self, self._ours.close)  # which ends the parent
        self.process: ProcessId | None = None
        self._imported: list[tuple[int, ...]] = []

    async def begin(self) -> None:
        """Run it, and return once its imports are done.

        Raises:
            StartFailedError: it ended, or took too long.
        """
        loop = asyncio.get_running_loop()
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                with self._theirs, (self._home / "warm.log").open("wb") as output:
                    started = await asyncio.create_subprocess_exec(
                        self.key.python, warm_parent.__file__, shim.__file__, *self.key.modules,
                        stdin=self._theirs.fileno(), stdout=output, stderr=output, cwd=self._home,
                        env={**dict(self.key.env), "HOME": str(self._home), "OMP_NUM_THREADS": "1"},
                    )  # fmt: skip
                await started.wait()  # it has left us
                pid = int(await loop.sock_recv(self._ours, 64) or 0)
                ticks = start_ticks(pid)
                if ticks is not None:
                    self.process = ProcessId(pid, ticks, boot_id())
                told = await loop.sock_recv(self._ours, 64)
        except (TimeoutError, OSError) as error:
            raise StartFailedError(f"nothing was imported in {WAIT_SECONDS:g} s.") from error
        if told != b"ready":
            raise StartFailedError(f"its imports failed: see {self._home / 'warm.log'}.")
        self._imported = await asyncio.to_thread(self._look)

    async def is_current(self) -> bool:
        """Whether the files that it has imported are those that an engine would import now."""
        with contextlib.suppress(OSError):
            return await asyncio.to_thread(self._look) == self._imported
        return False

    def _look(self) -> list[tuple[int, ...]]:
        with (self._home / warm_parent.IMPORTED).open(errors="surrogateescape") as told:
            return [_identity(line.rstrip("\n")) for line in told]

    @property
    def lives(self) -> bool:
        """Whether it runs still: the other end of its connection is open."""
        try:
            return self._ours.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    async def fork(self, folder: RunFolder, lifeline: int | None = None) -> None:
        """Start the shim of a prepared run folder, and its engine.

        Args:
            lifeline: as `spawn_shim` takes it.

        Raises:
            StartFailedError: it did not say in time that both run.
        """
        ready, theirs = os.pipe()
        asked = {
            "run_dir": str(folder.path),
            "argv": shim_command(folder),
            "env": shim_environment(folder),
        }
        with os.fdopen(ready, "rb") as answer:
            try:
                passed = [theirs] if lifeline is None else [theirs, lifeline]
                socket.send_fds(self._ours, [json.dumps(asked).encode()], passed)
            except OSError as error:
                raise StartFailedError(f"the warm parent is gone: {error}.") from error
            finally:
                os.close(theirs)
            try:
                told = await _until_closed(answer, self._seconds)
            except BaseException:
                self.kill()  # with what it has half begun, and what was asked for beyond
                raise
        if told != b"ok":
            why = told[1:].decode(errors="replace")[-500:]
            raise StartFailedError(f"{why or 'it died at once'}.")

    def kill(self) -> None:
        """Kill it; engines that it has forked live on."""
        self._ours.close()
        self._theirs.close()
        if self.process is not None:
            process.send_signal(self.process, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self.kill()
        if self.process is not None:
            await process.gone_within(self.process, process.REAP_SECONDS)


def _identity(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)  # noqa: PTH116 - some thousand of them
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


async def _until_closed(pipe: Any, seconds: float) -> bytes:
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        async with asyncio.timeout(seconds):
            return await reader.read()
    except TimeoutError as error:
        raise StartFailedError(f"it did not answer in {seconds:g} s.") from error
    finally:
        transport.close()


class WarmStarts:
    """Starts engines by a warm parent, of which there is one at most.

    Args:
        home: its folder.
        now: monotonic seconds.
        seconds: how long the parent may take to start a shim.
    """

    def __init__(self, home: Path, now: Callable[[], float], seconds: float = SHIM_SECONDS) -> None:
        self._home, self._now, self._seconds = home, now, seconds
        self._parent: WarmParent | None = None
        self._failed_at = -AGAIN_SECONDS
        self._lock = asyncio.Lock()

    async def parent(self, key: WarmKey) -> WarmParent | None:
        """Return a parent that has imported what the key says; None while there is none.

        It waits for the imports: beside them an engine's own would take as long.
        """
        async with self._lock:
            found = self._parent
            if found and found.lives and found.key == key and await found.is_current():
                return found
            await self._drop()
            if self._now() - self._failed_at < AGAIN_SECONDS:
                return None
            self._parent = WarmParent(key, self._home, self._seconds)
            try:
                await self._parent.begin()
            except BaseException as error:
                await asyncio.shield(self._drop())
                if not isinstance(error, (StartFailedError, OSError)):
                    raise
                self._failed_at = self._now()
                log.warning("engines start without a warm parent: %s", error)
            return self._parent

    async def failed(self, parent: WarmParent, error: StartFailedError) -> None:
        """Note a start that failed. A parent that is gone is not made anew for a while; one that
        lives has told what was wrong with that engine.
        """
        async with self._lock:
            log.warning("an engine was not forked: %s", error)
            if self._parent is parent and not parent.lives:
                self._failed_at = self._now()
                await self._drop()

    async def close(self) -> None:
        """End the parent."""
        async with self._lock:
            await self._drop()

    async def _drop(self) -> None:
        parent, self._parent = self._parent, None
        if parent is not None:
            await parent.end()
