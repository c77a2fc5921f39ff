"""Keeps Ray's processes running on one host.

The keeper is a process of its own: a unit of systemd (partitiond-ray.service), which outlives the
daemon, so that a daemon that is restarted loses no connection; or, where no unit runs it, a process
beside daemon or agent that ends with it. It runs `ray start --block`, and starts it again once that
or the raylet has ended: after a killed raylet the host is a new node, and after a killed control
service (GCS) the head is a new cluster, which the others join again.

`ray start` ends when a process of Ray breaks there. A raylet one of whose helpers ended (its agents
for the dashboard and for runtime environments) leaves in order, and `ray start` waits on, so the
keeper looks for a raylet itself.

Ray's processes end with the keeper, even if it is killed: `ray start` is sent SIGKILL then
(PR_SET_PDEATHSIG), and its reaper ends the process group. Whatever is left nevertheless carries
`FOLDER_VARIABLE` in its environment, and the next keeper ends it first.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from partitiond.cluster.ray_node import (
    FOLDER_VARIABLE,
    START_SECONDS,
    RayNode,
    check_node,
    node_environment,
    start_command,
)
from partitiond.core.errors import ConflictError, PartitiondError, SilentError
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.platform.durable_file import write_durably
from partitiond.platform.process_identity import environment
from partitiond.serde import from_stored_json, to_stored_json

PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses before Ray is started again, the last one for ever. Chosen: a host whose head is away
joins within some 10 s of its return."""
STEADY_SECONDS: Final = 60.0
"""Time that Ray has to run for the pauses to begin anew."""
END_SECONDS: Final = 10.0
"""Time for Ray's processes to end by themselves; they take 1 to 3 s on an idle machine."""
KEEPER_END_SECONDS: Final = 2 * END_SECONDS + 5.0
"""Time for a keeper to end Ray's processes, and those that are left over after that. One that is
killed before leaves them."""
LOOK_SECONDS: Final = 2.0
"""Pause between two looks for the raylet. Chosen: a host is late for so much longer, and a look
reads the name of each process, in a few milliseconds."""
FIRST_RAYLET_SECONDS: Final = START_SECONDS + 30.0
"""Time for the first raylet to come: the control service starts before it, on the head."""
SESSIONS_KEPT: Final = 2
"""Folders of former runs of Ray that are kept, for their logs."""
POLL_SECONDS: Final = 0.05

_PROC: Final = DeadlineCalls(END_SECONDS / 2)
"""Reads environments, each of which may hang as long as a driver holds that process's memory."""
_PR_SET_PDEATHSIG: Final = 1
_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


def keeper_command(node: RayNode) -> list[str]:
    """Return the command of a keeper that ends with this process."""
    return [
        sys.executable, "-m", "partitiond.cluster.keeper", to_stored_json(node), str(os.getpid()),
    ]  # fmt: skip


def keep_ray(node: RayNode) -> None:
    """Keep Ray running until this process is asked to end (SIGTERM, SIGINT). Blocks.

    To be called in the main thread of a process that does nothing else.

    Raises:
        SettingsError: as `check_node`.
        ConflictError: another keeper runs on the folder.
    """
    check_node(node, os.environ)
    node.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDING, signal.SIGCHLD})
    with _only_keeper(node.folder):
        end_left_over(node.folder)
        _keep(node)


@contextlib.contextmanager
def _only_keeper(folder: Path) -> Iterator[None]:
    """Hold the folder. Raises ConflictError."""
    with (folder / "keeper.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"Ray is kept on {folder} already.",
                hint="Stop partitiond-ray.service, or use another folder.",
            ) from None
        yield


def _keep(node: RayNode) -> None:
    tried = 0
    while True:
        with contextlib.suppress(OSError):
            _remove_old_sessions(node.folder)
        started = time.monotonic()
        try:
            why = _run_ray(node)
        except OSError as error:  # as a fork that failed, or a full disk
            why = f"cannot be run: {error}"
        if why is None:
            return
        steady = time.monotonic() - started > STEADY_SECONDS
        tried = 0 if steady else tried + 1
        pause = PAUSES_SECONDS[min(tried, len(PAUSES_SECONDS) - 1)]
        print(f"Ray {why}; started again in {pause:g} s.", flush=True)
        if signal.sigtimedwait(_ENDING, pause) is not None:
            return


def _run_ray(node: RayNode) -> str | None:
    """Run Ray until nothing of it is left; return how it ended, or None: this process is to end.

    Raises OSError.
    """
    # By its last address and a raylet on this machine, Ray would find itself, and refuse to start.
    (node.folder / "ray_current_cluster").unlink(missing_ok=True)
    child = subprocess.Popen(
        start_command(node, _identity(node.folder), int(time.time())),
        stdin=subprocess.DEVNULL,
        env=node_environment(node, os.environ),
        cwd=node.folder,
        start_new_session=True,
        preexec_fn=_tie_to(os.getpid()),  # noqa: PLW1509 - other threads read /proc, if any
    )
    try:
        asked_to_end = _ends(child, node.folder)
        how = "ended" if child.returncode is not None else "has no raylet"
        if child.returncode is None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(END_SECONDS)
    finally:
        end_left_over(node.folder)
        child.wait()
    return None if asked_to_end else f"{how} (exit status {child.returncode})"


def _ends(child: "subprocess.Popen[bytes]", folder: Path) -> bool:
    """Wait until Ray or its raylet ended (False), or until this process is to end (True)."""
    watch = ProcessWatch(time.monotonic())
    had_raylet = False
    while child.poll() is None:
        raylets = _processes_of(folder, "raylet")
        if raylets is not None and watch.is_gone(bool(raylets), time.monotonic()):
            return False
        if raylets and not had_raylet:
            print("Ray has a raylet.", flush=True)
            had_raylet = True
        told = signal.sigtimedwait({*_ENDING, signal.SIGCHLD}, LOOK_SECONDS)
        if told is not None and told.si_signo in _ENDING:
            return True
    return False


class ProcessWatch:
    """Decides from looks at a running Ray whether its raylet is gone. Pure.

    Args:
        began: when Ray was started, in monotonic seconds.
    """

    def __init__(self, began: float) -> None:
        self._until = began + FIRST_RAYLET_SECONDS

    def is_gone(self, is_there: bool, now: float) -> bool:
        """Return whether there is no raylet though one was there, or should have come by now."""
        if is_there:
            self._until = now
        return not is_there and now >= self._until


class _tie_to:  # noqa: N801 - used as a function
    """Ties a child's life to its parent's, and takes signals as usual again."""

    def __init__(self, parent: int, number: signal.Signals = signal.SIGKILL) -> None:
        self._parent, self._number = parent, number
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl

    def __call__(self) -> None:
        self._prctl(_PR_SET_PDEATHSIG, self._number, 0, 0, 0)
        if os.getppid() != self._parent:
            os._exit(125)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_ENDING, signal.SIGCHLD})


def end_left_over(folder: Path) -> None:
    """End the processes of Ray that were started for a folder. Blocks. Idempotent."""
    until = time.monotonic() + END_SECONDS
    number = signal.SIGTERM
    while (left := _processes_of(folder)) != []:
        for pid in left or ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if time.monotonic() > until:
            print(f"Ray is not ended: {left or 'none can look for its processes'}.", flush=True)
            return
        time.sleep(POLL_SECONDS * (10 if number is signal.SIGTERM else 1))
        number = signal.SIGKILL if left else number


def _processes_of(folder: Path, name: str = "") -> list[int] | None:
    """Return living processes of this user that carry the folder in their environment; None in a
    shortage of files or memory, or where /proc does not answer: either says nothing of them.

    Args:
        name: of the program; empty finds all.
    """
    with contextlib.suppress(OSError, SilentError):
        return _PROC.ask("/proc", lambda: _marked(folder, name))
    return None


def _marked(folder: Path, name: str) -> list[int]:
    mark, found = f"{FOLDER_VARIABLE}={folder}".encode(), []
    gone = FileNotFoundError, ProcessLookupError, PermissionError  # or another user's
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(*gone):
            if name and (entry / "comm").read_bytes().strip() != name.encode():
                continue
            if mark in environment(int(entry.name)):
                found.append(int(entry.name))
    return found


def _identity(folder: Path) -> str:
    """Return the host's identity in the cluster, which is made once. Raises OSError."""
    path = folder / "identity"
    with contextlib.suppress(FileNotFoundError):  # what cannot be read is no reason for another
        if found := path.read_text("ascii", errors="replace").strip():
            return found
    made = uuid.uuid4().hex
    write_durably(path, made.encode("ascii"))
    return made


def _remove_old_sessions(folder: Path) -> None:
    """Remove the folders of Ray's former runs, but for the latest."""
    found = [p for p in folder.glob("session_*") if p.is_dir() and not p.is_symlink()]
    for path in sorted(found, key=lambda p: p.stat().st_mtime)[:-SESSIONS_KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    """Run as a program: `python -m partitiond.cluster.keeper NODE PARENT` (`keeper_command`)."""
    os.umask(0o077)
    os.chdir("/")
    _tie_to(int(sys.argv[2]), signal.SIGTERM)()
    try:
        keep_ray(from_stored_json(RayNode, sys.argv[1]))
    except PartitiondError as error:
        print(f"{error.message} {error.hint}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
