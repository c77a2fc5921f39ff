"""Named points in the daemon's work at which a test can end it, as `kill -9` would.

Off unless PARTITIOND_FAULT_POINT names one: `engine.shim-spawned` ends the process the first time
it comes there, `store.committed:3` the third time. `@FILE` reads that from a file at each point, so
that a test can arm a daemon that runs, and appends the name of each point that was passed to
`FILE.passed`.

Every point is in the enumeration below, and a test ends a daemon at each of them and starts it
again (`tests/chaos/test_daemon_killed.py`); a point that no test knows fails that test.
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
    """Where the daemon can be ended; between two steps of one action each."""

    # A model, its keys and its plan.
    MODEL_STORED = "model.stored"
    """Registered in the store; nobody was told, and nothing was estimated."""
    RELEASE_KEPT = "model.release-kept"
    """What served is written down as the way back; the model is what it was."""
    MODEL_UPDATED = "model.updated"
    """Replaced in the store; nobody watches over its new release yet."""
    RELEASE_WANTED = "model.release-wanted"
    """The release to go back to is written down; the model is not of it yet."""
    MODEL_REMOVED = "model.removed"
    """Gone from the store, while the applied plan has its replicas still."""
    KEY_STORED = "key.stored"
    """In the store; the proxy does not know it."""
    PLAN_STORED = "plan.stored"
    PLAN_APPLIED = "plan.applied"

    # An engine's start.
    ENGINE_BEGUN = "engine.begun"
    """Its start was decided; nothing of it is on disk."""
    RUN_FOLDER_MADE = "engine.run-folder-made"
    LAUNCH_WRITTEN = "engine.launch-written"
    COMMAND_WRITTEN = "engine.command-written"
    SHIM_SPAWNED = "engine.shim-spawned"
    """The process exists, and has not said who it is."""
    ENGINE_IDENTIFIED = "engine.identified"
    ENGINE_ANSWERED = "engine.answered"
    ENGINE_READY = "engine.ready"

    # What the proxy is told.
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
    STEP_KEPT = "job.step-kept"
    """A finished trial is in the checkpoint."""
    PROFILE_STORED = "job.profile-stored"
    """The result is in the store; the job says still that it runs."""
    JOB_FINISHED = "job.finished"

    # A transaction.
    STORE_COMMITTING = "store.committing"
    STORE_COMMITTED = "store.committed"

    # A partition of a GPU.
    JOURNAL_DRAFTED = "partition.journal-drafted"
    DEVICE_PLANNED = "partition.device-planned"
    """Journalled; the device was not touched."""
    DEVICE_TOUCHED = "partition.device-touched"
    """The device was written to; the journal says planned."""
    DEVICE_DONE = "partition.device-done"
    PARTITION_PREPARED = "partition.prepared"
    PARTITION_RELEASING = "partition.releasing"
    """Nothing is left of the engine; its partition is."""
    DEVICE_UNDONE = "partition.device-undone"
    """The device is as it was found; the journal does not say so."""
    PARTITION_RELEASED = "partition.released"


_ARMED: Final = os.environ.get(VARIABLE, "")
_passed: Counter[str] = Counter()
_order: str = _ARMED


def reached(point: FaultPoint) -> None:
    """The process came to a point; it goes no further where that was asked for."""
    if _ARMED:
        _pass(point)


def _pass(point: FaultPoint) -> None:
    global _order  # noqa: PLW0603 - one process, one order
    if _ARMED.startswith("@"):
        file = Path(_ARMED[1:])
        order = ""
        with contextlib.suppress(OSError):
            order = file.read_text().strip()
        if order != _order:
            _order = order
            _passed.clear()
        with file.with_suffix(".passed").open("a") as passed:
            passed.write(f"{point}\n")
    name, _, count = _order.partition(":")
    _passed[point] += 1
    if name == point and _passed[point] >= int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
