"""Defines named points in the daemon's work at which a test can end it, as `kill -9` would.

The points are off unless PARTITIOND_FAULT_POINT names one: `engine.shim-spawned` ends the process
the first time it reaches the point, `store.committed:3` the third time. `@FILE` reads the name from
a file at each point, so that a test can arm a running daemon.

Every point is in the enumeration below. `tests/chaos/test_daemon_killed.py` ends a daemon at each
point and starts it again; a point that no test knows fails that test.
"""

import contextlib
import enum
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Final

VARIABLE: Final = "PARTITIOND_FAULT_POINT"


class FaultPoint(enum.StrEnum):
    """The points at which a daemon can be ended, each between two steps of one action."""

    # A model, its keys and its plan.
    MODEL_STORED = "model.stored"
    """The model is in the store; no other part was told, and nothing was estimated."""
    RELEASE_KEPT = "model.release-kept"
    """The serving release is stored for a rollback; the model is unchanged."""
    MODEL_UPDATED = "model.updated"
    """The model is replaced in the store; its new release is not watched yet."""
    RELEASE_WANTED = "model.release-wanted"
    """The release to roll back to is stored; the model does not have it yet."""
    MODEL_REMOVED = "model.removed"
    """The model is gone from the store; the applied plan still has its replicas."""
    KEY_STORED = "key.stored"
    """The key is in the store; the proxy does not know it."""
    PLAN_STORED = "plan.stored"
    PLAN_APPLIED = "plan.applied"

    # An engine's start.
    ENGINE_BEGUN = "engine.begun"
    """The engine's start was decided; nothing of the engine is on disk."""
    RUN_FOLDER_MADE = "engine.run-folder-made"
    LAUNCH_WRITTEN = "engine.launch-written"
    COMMAND_WRITTEN = "engine.command-written"
    SHIM_SPAWNED = "engine.shim-spawned"
    """The process exists, and has not identified itself."""
    ENGINE_IDENTIFIED = "engine.identified"
    ENGINE_ANSWERED = "engine.answered"
    ENGINE_READY = "engine.ready"

    # The table for the proxy.
    TABLE_NUMBERED = "table.numbered"
    TABLE_PUBLISHED = "table.published"

    # Sleep.
    SLEEP_MARKED = "sleep.marked"
    ENGINE_RESTS = "engine.rests"
    ENGINE_FALLS_ASLEEP = "engine.falls-asleep"
    ENGINE_FELL_ASLEEP = "engine.fell-asleep"
    WAKE_MARKED = "wake.marked"
    ENGINE_WAKES = "engine.wakes"
    ENGINE_WOKE = "engine.woke"

    # An engine's end.
    ENGINE_DRAINS = "engine.drains"
    STOP_ASKED = "engine.stop-asked"
    ENGINE_TERMINATED = "engine.terminated"
    ENGINE_GONE = "engine.gone"
    ENGINE_TIDIED = "engine.tidied"
    ENGINE_STOPPED = "engine.stopped"

    # The daemon's own start.
    PROXY_SPAWNED = "proxy.spawned"
    PROXY_STARTED = "proxy.started"
    ENGINES_FOUND = "engines.found"
    ENGINES_ADOPTED = "engines.adopted"

    # A profile job.
    JOB_QUEUED = "job.queued"
    JOB_STARTED = "job.started"
    PROFILE_STORED = "job.profile-stored"
    """The result is in the store; the job is still marked as running."""
    JOB_FINISHED = "job.finished"

    # A transaction.
    STORE_COMMITTING = "store.committing"
    STORE_COMMITTED = "store.committed"

    # A partition of a GPU.
    JOURNAL_DRAFTED = "partition.journal-drafted"
    DEVICE_PLANNED = "partition.device-planned"
    """The change is in the journal; the device was not touched."""
    DEVICE_TOUCHED = "partition.device-touched"
    """The device was written to; the journal still says planned."""
    DEVICE_DONE = "partition.device-done"
    PARTITION_PREPARED = "partition.prepared"
    PARTITION_RELEASING = "partition.releasing"
    """Nothing is left of the engine; its partition still exists."""
    DEVICE_UNDONE = "partition.device-undone"
    """The device is as it was found; the journal does not say so."""
    PARTITION_RELEASED = "partition.released"


_passed: Counter[str] = Counter()
_order: str = ""


def reached(point: FaultPoint) -> None:
    """Mark that the process reached a point; end the process here if that was asked for."""
    if armed := os.environ.get(VARIABLE):
        _pass(point, armed)


def _pass(point: FaultPoint, order: str) -> None:
    global _order  # noqa: PLW0603 - one process, one order
    if order.startswith("@"):
        file, order = Path(order[1:]), ""
        with contextlib.suppress(OSError):
            order = file.read_text().strip()
    if order != _order:
        _order = order
        _passed.clear()
    name, _, count = _order.partition(":")
    _passed[point] += 1
    if name == point and _passed[point] >= int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
