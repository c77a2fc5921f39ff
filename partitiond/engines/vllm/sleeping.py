"""Puts engines to sleep and wakes them, over the engines' own routes.

vLLM serves these routes with `--enable-sleep-mode` and `VLLM_SERVER_DEV_MODE=1` only
(https://docs.vllm.ai/en/latest/features/sleep_mode/); the simulated engine has the same routes.
Development mode opens other routes as well, so it relies on the engine's socket being reachable
only by the proxy, which sends on to two fixed paths.

The level is noted in the run folder before the engine is asked, and the note is removed once the
engine is awake again: a daemon that starts meanwhile knows what waking takes. Without its weights
(level 2) an engine would generate noise and would not look broken. Nothing depends on the note: an
engine that sleeps without one, as the disk was full, reads its weights again.
"""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Final

from partitiond.core.errors import EngineError
from partitiond.core.replica.engine import EngineHandle
from partitiond.engines.vllm.probing import name_of_question
from partitiond.engines.vllm.unix_http import ExchangeError, HttpAnswer, exchange

NOTE: Final = "sleep-level"
"""File of the run folder that holds the level, while the engine sleeps or wakes."""
SLEEP_SECONDS: Final = 120.0
"""Copying weights to pinned host memory takes a second for some GiB; pinning it may take longer."""
WAKE_SECONDS: Final = 120.0
RELOAD_SECONDS: Final = 600.0
"""Waking copies weights back; reading those of level 2 from disk takes as long as a start may."""
UNKNOWN_LEVEL: Final = 2
"""For an engine found asleep without a note. Reloading weights that were kept does no harm."""

log = logging.getLogger(__name__)


async def put_to_sleep(handle: EngineHandle, level: int) -> None:
    """Ask the engine to give its memory up, and wait until it has.

    Raises:
        EngineError: it refuses or does not answer.
    """
    if not handle.launch.sleep_mode:
        raise EngineError(
            f"{handle.launch.replica_id} was started without sleep mode.",
            hint="Switch the engine option sleep_mode on; it counts from the next start.",
        )
    try:
        await asyncio.to_thread(_note(handle).write_text, str(level))
    except OSError as error:
        log.warning("the sleep level of %s is not kept: %s", handle.launch.replica_id, error)
    # mode=wait lets running requests finish; without it the engine aborts them.
    await _ask(handle, f"/sleep?level={level}&mode=wait", SLEEP_SECONDS)
    if not await _is_sleeping(handle, SLEEP_SECONDS):
        raise EngineError(
            f"{handle.launch.replica_id} says that it is awake after it was put to sleep.",
            hint=f"See its log, {handle.log_path}.",
        )


async def wake(handle: EngineHandle) -> None:
    """Give the engine its memory back, and at level 2 its weights. Repeatable.

    Weights come before the KV cache: the engine schedules nothing until both are there, so no
    request meets weights that are not read yet.

    Raises:
        EngineError: it refuses or does not answer.
    """
    if await sleep_level(handle, WAKE_SECONDS) == 1:
        await _ask(handle, "/wake_up", WAKE_SECONDS)
    else:
        await _ask(handle, "/wake_up?tags=weights", WAKE_SECONDS)
        await _ask(handle, "/collective_rpc", RELOAD_SECONDS, {"method": "reload_weights"})
        await _ask(handle, "/wake_up?tags=kv_cache", WAKE_SECONDS)
    with contextlib.suppress(OSError):
        await asyncio.to_thread(_note(handle).unlink)


async def sleep_level(handle: EngineHandle, timeout_seconds: float) -> int:
    """Return the engine's sleep level; 0 is awake. One whose wake was cut off counts as asleep.

    Raises:
        EngineError: the engine does not answer in time. The question goes through to the engine's
            core, so a frozen engine does not answer it.
    """
    asleep = await _is_sleeping(handle, timeout_seconds)
    with contextlib.suppress(OSError, ValueError):
        return int(await asyncio.to_thread(_note(handle).read_text))
    # Random weights cannot be read again, so their engine sleeps at level 1 alone.
    random = handle.launch.dummy_weights and handle.launch.engine_kind == "vllm"
    return (1 if random else UNKNOWN_LEVEL) if asleep else 0


def does_not_answer(handle: EngineHandle) -> EngineError:
    """Make the error for an engine that said that it is awake and answers nothing."""
    return EngineError(
        f"{handle.launch.replica_id} was woken and does not answer "
        f"{name_of_question(handle.launch)}.",
        hint=f"It is ended and started again; see its log, {handle.log_path}.",
    )


def _note(handle: EngineHandle) -> Path:
    return Path(handle.run_dir) / NOTE


async def _is_sleeping(handle: EngineHandle, seconds: float) -> bool:
    try:
        answer = await exchange(handle.socket_path, "GET", "/is_sleeping", timeout_seconds=seconds)
        found = answer.fields() if answer.status == 200 else {}
    except ExchangeError as error:
        raise _failed(handle, "/is_sleeping", str(error)) from error
    if "is_sleeping" not in found:
        raise _failed(handle, "/is_sleeping", f"HTTP {answer.status}")
    return bool(found["is_sleeping"])


async def _ask(
    handle: EngineHandle, path: str, seconds: float, payload: object | None = None
) -> HttpAnswer:
    try:
        answer = await exchange(handle.socket_path, "POST", path, payload, timeout_seconds=seconds)
    except ExchangeError as error:
        raise _failed(handle, path, str(error)) from error
    if answer.status != 200:
        text = answer.body[:300].decode(errors="replace")
        raise _failed(handle, path, f"HTTP {answer.status} {text}")
    return answer


def _failed(handle: EngineHandle, path: str, why: str) -> EngineError:
    return EngineError(
        f"{handle.launch.replica_id} failed at {path}: {why}.",
        hint=f"It is ended and started again; see its log, {handle.log_path}.",
        facts={"path": path},
    )
