"""Keeps Ray's processes running on one host.

The keeper is a process of its own: a unit of systemd (`partitiond host ray`), or started by
`ensure_keeper` where no unit runs it, and again by `restart_keeper`. It outlives the daemon, so
that a daemon that is restarted loses no connection. It runs `ray start --block`, and starts it
again once that or the raylet has ended: after a killed raylet the host is a new node, and after a
killed control service (GCS) the head is a new cluster, which the others join again.

`ray start` ends when a process of Ray breaks there. A raylet one of whose helpers ended (its agents
for the dashboard and for runtime environments) leaves in order, and `ray start` waits on, so the
keeper looks for a raylet itself.

Ray's processes end with the keeper, even if it is killed: `ray start` is sent SIGKILL then
(PR_SET_PDEATHSIG), and its reaper ends the process group. Whatever is left nevertheless carries
`FOLDER_VARIABLE` in its environment, and the next keeper ends it first.
"""

import contextlib
import ctypes
import dataclasses
import json
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
    node_from_json,
    node_to_json,
    start_command,
)
from partitiond.core.errors import ConflictError, PartitiondError
from partitiond.platform.process_identity import is_alive, own_identity

PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses before Ray is started again, the last one for ever. Chosen: a host whose head is away
joins within some 10 s of its return."""
STEADY_SECONDS: Final = 60.0
"""Time that Ray has to run for the pauses to begin anew."""
END_SECONDS: Final = 10.0
"""Time for Ray's processes to end by themselves; they take 1 to 3 s on an idle machine."""
KILL_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 2.0
"""Pause between two looks for the raylet. Chosen: a host is late for so much longer, and a look
reads the name of each process, in a few milliseconds."""
FIRST_RAYLET_SECONDS: Final = START_SECONDS + 30.0
"""Time for the first raylet to come: the control service starts before it, on the head."""
SESSIONS_KEPT: Final = 2
"""Folders of former runs of Ray that are kept, for their logs."""
POLL_SECONDS: Final = 0.05
SPAWN_SECONDS: Final = 60.0
"""Time for the keeper's process to start; takes 0.4 s, and a busy host may take many times that."""

_PR_SET_PDEATHSIG: Final = 1
_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


@dataclasses.dataclass(frozen=True, slots=True)
class KeeperRecord:
    """Who keeps Ray here.

    Attributes:
        spawned: whether a daemon started the keeper, and may end it.
    """

    pid: int
    start_ticks: int
    boot_id: str
    spawned: bool


def keeper_of(folder: Path) -> KeeperRecord | None:
    """Return the keeper that runs on a folder, or None."""
    found = _last_keeper(folder)
    return found if found is not None and is_alive(found) else None


def _last_keeper(folder: Path) -> KeeperRecord | None:
    try:
        return KeeperRecord(**json.loads((folder / "keeper.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def restart_keeper(node: RayNode) -> None:
    """Start the keeper again if it has ended and a daemon had started it: its unit starts another.

    Blocks for a moment. Raises what `ensure_keeper` does.
    """
    last = _last_keeper(node.folder)
    if last is not None and last.spawned and not is_alive(last):
        _reap(last.pid)
        ensure_keeper(node)


def ensure_keeper(node: RayNode) -> KeeperRecord:
    """Return the keeper of this host's Ray; start it if nobody runs it. Blocks for a moment.

    A keeper that a daemon started with other settings is ended first; a unit's is left as it is.

    Raises:
        SettingsError: as `check_node`.
        PartitiondError: the keeper did not start.
    """
    check_node(node, os.environ)
    found = keeper_of(node.folder)
    if found is not None:
        if not found.spawned or _kept(node.folder) == node:
            return found
        stop_keeper(node.folder)
    node.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    asked = node.folder / "asked.json"
    asked.write_text(node_to_json(node), "utf-8")
    log = node.folder / "keeper.log"
    pid = _spawn([sys.executable, "-m", "partitiond.cluster.keeper", str(asked)], log)
    until = time.monotonic() + SPAWN_SECONDS
    ended = False
    while time.monotonic() < until and not (ended := _reap(pid)):
        found = keeper_of(node.folder)
        if found is not None:
            return found
        time.sleep(POLL_SECONDS)
    if not ended:  # else its number may be another process's by now
        os.kill(pid, signal.SIGKILL)
    raise PartitiondError(
        f"Ray's keeper did not start on {node.folder}: {_tail(log)}", hint=f"See {log}."
    )


def stop_keeper(folder: Path) -> None:
    """End the keeper and Ray's processes on this host, unless a unit of systemd keeps them.

    Blocks for some seconds. Idempotent.
    """
    found = keeper_of(folder)
    if found is not None and not found.spawned:
        return
    if found is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGTERM)
        until = time.monotonic() + END_SECONDS + KILL_SECONDS
        while is_alive(found) and time.monotonic() < until:
            _reap(found.pid)
            time.sleep(POLL_SECONDS)
        if is_alive(found):
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pid, signal.SIGKILL)
    end_left_over(folder)


def _spawn(command: list[str], log: Path) -> int:
    """Start a program that outlives this one, in a session of its own; return its pid."""
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), writing, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _reap(pid: int) -> bool:
    """Collect a keeper's exit status; return whether it ended. It may be no child of ours."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return False


def _kept(folder: Path) -> RayNode | None:
    try:
        return node_from_json((folder / "node.json").read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing."


# -- the keeper's own process ----------------------------------------------------------------


def keep_ray(node: RayNode, *, spawned: bool = False) -> None:
    """Keep Ray running until this process is asked to end (SIGTERM, SIGINT). Blocks.

    To be called in the main thread of a process that does nothing else.

    Raises:
        SettingsError: as `check_node`.
        ConflictError: another keeper runs on the folder.
    """
    check_node(node, os.environ)
    node.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDING, signal.SIGCHLD})
    with _only_keeper(node, spawned=spawned):
        end_left_over(node.folder)
        _keep(node)


@contextlib.contextmanager
def _only_keeper(node: RayNode, *, spawned: bool) -> Iterator[None]:
    """Say that this process is the keeper, and of which settings. Raises ConflictError."""
    import fcntl

    folder = node.folder
    with (folder / "keeper.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"Ray is kept on {folder} already.",
                hint="Stop partitiond-ray.service, or use another folder.",
            ) from None
        # Before it is found: a keeper whose settings are not known is ended by `ensure_keeper`.
        _write(folder / "node.json", node_to_json(node))
        record = KeeperRecord(**dataclasses.asdict(own_identity()), spawned=spawned)
        _write(folder / "keeper.json", json.dumps(dataclasses.asdict(record)))
        yield


def _keep(node: RayNode) -> None:
    tried = 0
    while True:
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
    child = subprocess.Popen(
        start_command(node, _identity(node.folder), int(time.time())),
        stdin=subprocess.DEVNULL,
        env=node_environment(node, os.environ),
        cwd=node.folder,
        start_new_session=True,
        preexec_fn=_tie_to(os.getpid()),  # noqa: PLW1509 - this process has one thread
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
        has_raylet = _has_raylet(folder)
        if watch.is_gone(has_raylet, time.monotonic()):
            return False
        if has_raylet and not had_raylet:
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


def _has_raylet(folder: Path) -> bool:
    return next(_processes_of(folder, "raylet"), None) is not None


class _tie_to:  # noqa: N801 - used as a function
    """Ties a forked child's life to the keeper's, and takes signals as usual again."""

    def __init__(self, keeper: int) -> None:
        self._keeper = keeper
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl

    def __call__(self) -> None:
        self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self._keeper:
            os._exit(125)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_ENDING, signal.SIGCHLD})


def end_left_over(folder: Path) -> None:
    """End the processes of Ray that were started for a folder. Blocks. Idempotent."""
    until = time.monotonic() + END_SECONDS
    number = signal.SIGTERM
    while left := list(_processes_of(folder)):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if time.monotonic() > until:
            return
        if number is signal.SIGTERM:
            time.sleep(POLL_SECONDS * 10)
        else:
            time.sleep(POLL_SECONDS)
        number = signal.SIGKILL


def _processes_of(folder: Path, name: str = "") -> Iterator[int]:
    """Find living processes of this user that carry the folder in their environment.

    Args:
        name: of the program; empty finds all.
    """
    mark = f"{FOLDER_VARIABLE}={folder}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            if name and (entry / "comm").read_bytes().strip() != name.encode():
                continue
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)


def _identity(folder: Path) -> str:
    """Return the host's identity in the cluster, which is made once."""
    path = folder / "identity"
    with contextlib.suppress(OSError):
        if found := path.read_text("ascii").strip():
            return found
    made = uuid.uuid4().hex
    _write(path, made)
    return made


def _remove_old_sessions(folder: Path) -> None:
    """Remove the folders of Ray's former runs, but for the latest."""
    found = [p for p in folder.glob("session_*") if p.is_dir() and not p.is_symlink()]
    for path in sorted(found, key=lambda p: p.stat().st_mtime)[:-SESSIONS_KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    """Write so that a reader sees the old file or the new one, never half of one."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(text, "utf-8")
    new.replace(path)


def main() -> None:
    """Run as a program: `python -m partitiond.cluster.keeper NODE.json`."""
    os.umask(0o077)
    os.chdir("/")
    try:
        keep_ray(node_from_json(Path(sys.argv[1]).read_text("utf-8")), spawned=True)
    except PartitiondError as error:
        print(f"{error.message} {error.hint}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
