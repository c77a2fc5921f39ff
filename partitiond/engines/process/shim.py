"""Supervises one engine. Standard library only: run as `python -I -S shim.py RUN_DIR`.

The shim reads RUN_DIR/command.json (argv, env, cores, cwd), leaves its parent, and then

- leads a session and a process group of its own, so that neither a terminal nor the daemon's end
  reaches the engine, and so that the whole tree can be signalled as a group;
- is the subreaper of the tree, so that a process whose parent died becomes the shim's child;
- writes RUN_DIR/process.json before the engine exists, so that every started process can be found;
- pumps the engine's output into a size-rotated RUN_DIR/engine.log;
- samples the memory of the tree into RUN_DIR/memory.json;
- once the engine's main process is gone, kills the rest and writes RUN_DIR/exit.json.

If command.json names a `launcher`, the engine belongs to another user: systemd starts it, by the
connection to that socket, and the shim supervises it through `sandbox`. All the rest is the same.

SIGTERM is passed on to the main process; SIGQUIT kills the tree at once. If the shim itself is
killed, the kernel kills the main process with it (PR_SET_PDEATHSIG). With `--with-parent FD` the
tree is also killed when the pipe FD ends: only the process that started the shim holds the other
end of the pipe. With `--engine PID OUTPUT READY GATE` this process has forked its engine already,
before it became the shim (`warm_parent`); the engine waits at the gate until it is in the shim's
cgroup. All but the start is the same.

The shim lives as long as its engine, so it imports little: about 7 MB proportional set size.
"""

# pathlib would add half to the memory of a process that mostly waits.
# ruff: noqa: PTH105, PTH110, PTH118, PTH123, PTH208, PTH211

import ctypes
import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # a megabyte that no shim needs
    from collections.abc import Callable
    from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

LOG_BYTES = 8 * 1024 * 1024
"""Size of one log file. With three files an engine never holds more than 24 MiB of disk."""
LOG_FILES = 3

FAST_SAMPLE_SECONDS = 2.0
SLOW_SAMPLE_SECONDS = 10.0
FAST_SAMPLING_SECONDS = 90.0
"""Memory changes while an engine loads; later a sample (about 10 ms per process of 1 GiB, in the
kernel) every ten seconds costs 0.3 % of a core at most."""

SANDBOX_VERSION = 1
"""Of what the shim and `sandbox` say to each other."""
SANDBOX_SECONDS = 12.0
"""Longest wait for the process that systemd starts, which takes some 0.1 s on an idle machine; less
than the daemon waits for this program (`spawn`)."""
MAX_LINE_BYTES = 4096
MOST_MEMORY_BYTES = 1 << 50
"""No host has as much; a figure above is a lie."""

KILL_ROUNDS = 100
KILL_ROUND_SECONDS = 0.05
"""Rounds of SIGKILL, and pause between them: a tree may fork while it is killed."""
ENGINE_OOM_SCORE_ADJ = 500
"""When the host runs out of memory the kernel should kill an engine, not the daemon or proxy."""


def prctl(option: int, value: int) -> None:
    """Call prctl(2). Raises OSError on failure."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def read_text(path: str) -> str:
    """Return the whole file, or "" when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def write_json(path: str, value: object) -> None:
    """Write so that a reader sees the old file or the new one, never half of one."""
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(temporary, path)


def stat_fields(pid: int) -> list[str]:
    """Return fields of /proc/PID/stat from the state on (field 3), or [] if there is no such
    process.
    """
    text = read_text(f"/proc/{pid}/stat")
    return text[text.rfind(")") + 2 :].split() if text else []


def tree(leader: int) -> list[int]:
    """Return living processes of the leader's session, and its other children, without the
    leader.
    """
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == leader:
            continue
        fields = stat_fields(int(name))
        # fields: 0 state, 1 parent, 2 process group, 3 session
        ours = bool(fields) and (int(fields[3]) == leader or int(fields[1]) == leader)
        if ours and fields[0] not in "ZX":
            found.append(int(name))
    return found


def pss_bytes(pid: int, *, alone: bool = False) -> int:
    """Return the proportional set size of one process in bytes; 0 when it is gone.

    Args:
        alone: memory that it shares with what it was forked from counts as its own, as in an engine
            that imported by itself. Only for what was forked from a warm parent: what an engine
            forks itself would share as much if that had imported by itself.
    """
    lines = read_text(f"/proc/{pid}/smaps_rollup").splitlines()[1:]
    sizes = {name: int(size) * 1024 for name, size, _ in map(str.split, lines)}
    anonymous = sizes.get("Anonymous:", 0)
    # Before Linux 5.3 the kernel does not tell which part is shared.
    shared = anonymous - sizes.get("Pss_Anon:", anonymous)
    return sizes.get("Pss:", 0) + (shared if alone else 0)


def oom_kills() -> int:
    """Count the processes that the kernel killed for lack of memory since boot."""
    for line in read_text("/proc/vmstat").splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


class RotatedLog:
    """An append-only log of bounded size. A full disk loses output, never the engine."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size

    def write(self, data: bytes) -> None:
        """Append, and rotate when the file is full."""
        try:
            if self._file < 0:
                self._open()
            os.write(self._file, data)
            self._size += len(data)
            if self._size >= LOG_BYTES:
                self._rotate()
        except OSError:
            return

    def _rotate(self) -> None:
        # The number is reused as soon as the descriptor is closed: never write to it again.
        descriptor, self._file = self._file, -1
        os.close(descriptor)
        try:
            for number in range(LOG_FILES - 1, 0, -1):
                older = self._path if number == 1 else f"{self._path}.{number - 1}"
                if os.path.exists(older):
                    os.replace(older, f"{self._path}.{number}")
        finally:
            self._open()
            if self._size >= LOG_BYTES:  # It could not be moved; the bound still holds.
                os.ftruncate(self._file, 0)
                self._size = 0


class ShimMemory:
    """Samples the memory of the tree, and hands each new maximum to `keep`.

    The figure is the proportional set size: what the processes have to themselves, and their share
    of what they map together with others, as the libraries of several engines. The bytes of an
    engine that is no child (`elsewhere`) are added: see `SandboxedEngine.memory`. The process
    `alone` (0: none) weighs what it would if it had not been forked.
    """

    def __init__(
        self,
        keep: "Callable[[int], None]",
        elsewhere: "Callable[[], int]" = lambda: 0,
        *,
        alone: int = 0,
    ) -> None:
        self._alone = alone
        self._keep = keep
        self._peak = 0
        self._elsewhere = elsewhere
        self._started = self._next = time.monotonic()

    def wait_milliseconds(self) -> int:
        """Return milliseconds until the next sample is due."""
        return max(1, int((self._next - time.monotonic()) * 1000))

    def sample_if_due(self) -> None:
        """Sample, and hand on the peak when it grew by a megabyte or more."""
        now = time.monotonic()
        if now < self._next:
            return
        young = now - self._started < FAST_SAMPLING_SECONDS
        self._next = now + (FAST_SAMPLE_SECONDS if young else SLOW_SAMPLE_SECONDS)
        pids = (os.getpid(), *tree(os.getpid()))
        total = sum(pss_bytes(pid, alone=pid == self._alone) for pid in pids) + self._elsewhere()
        if total > self._peak + 1024 * 1024:
            self._peak = total
            self._keep(total)


def keep_peak(run_dir: str, peak: int) -> None:
    """Keep the peak of the memory on disk; a full disk loses it."""
    try:
        write_json(os.path.join(run_dir, "memory.json"), {"peak_pss_bytes": peak})
    except OSError:
        return


def report(ready: int, error: Exception) -> None:
    """Say why the engine was not started: the number of the error, then its words."""
    number = getattr(error, "errno", None) or 1
    os.write(ready, bytes([number]) + f"{type(error).__name__}: {error}".encode())


def leave_parent() -> int:
    """Fork; the parent waits until the child reports, then exits. Returns the child's pipe end.

    The parent exits with the number of the error that kept the engine from being started.
    """
    ready_read, ready_write = os.pipe()
    if os.fork() != 0:
        os.close(ready_write)
        answer = os.read(ready_read, 4096)
        if answer != b"ok":
            os.write(2, answer[1:] or b"the supervisor died at once")
            os._exit(answer[0] if answer else 1)
        os._exit(0)
    os.close(ready_read)
    return ready_write


def write_identity(run_dir: str, main_pid: int, cgroup: str = "", forked: int = 0) -> None:
    """Record the supervisor of this run folder, with enough to tell it from a recycled pid.

    `cgroup` is the folder of the engine's cgroup where the engine belongs to another user, `forked`
    the process that was forked from a warm parent, 0 if none was.
    """
    write_json(
        os.path.join(run_dir, "process.json"),
        {
            "body_version": 1,
            "pid": os.getpid(),
            "start_ticks": int(stat_fields(os.getpid())[19]),
            "boot_id": read_text("/proc/sys/kernel/random/boot_id").strip(),
            "main_pid": main_pid,
            "cgroup": cgroup,
            "forked": forked,
        },
    )


def depend_on(supervisor: int, cwd: str, output: int) -> None:
    """In a forked child, tie its life to the shim's and its output to the log."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(125)
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(ENGINE_OOM_SCORE_ADJ))
    except OSError:
        pass
    os.chdir(cwd)
    os.dup2(output, 1)
    os.dup2(output, 2)


def become_engine(
    argv: list[str], env: dict[str, str], cwd: str, output: int, supervisor: int
) -> None:
    """In the forked child, tie its life to the shim's, then become the engine. Never returns."""
    try:
        depend_on(supervisor, cwd, output)
        os.execve(argv[0], argv, env)  # noqa: S606 - exec is the point
    except OSError as error:
        os.write(output, f"cannot start {argv[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def reap(main_pid: int) -> int | None:
    """Collect ended children. Returns the main process's wait status once that process ended."""
    status = None
    while True:
        try:
            pid, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == main_pid:
            status = code


def kill_tree() -> None:
    """Kill everything below the shim until nothing is left."""
    for _ in range(KILL_ROUNDS):
        left = tree(os.getpid())
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap(0)
        if not left:
            return
        time.sleep(KILL_ROUND_SECONDS)


def pump(source: int, log: RotatedLog) -> bool:
    """Move what is readable into the log. Returns whether the source is still open."""
    try:
        data = os.read(source, 65536)
    except BlockingIOError:
        return True
    if data:
        log.write(data)
    return bool(data)


class ChildEngine:
    """An engine that is a child of the shim."""

    descriptor = -1
    cgroup = ""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def memory(self) -> int:
        """Return 0: its processes are the shim's tree."""
        return 0

    def send(self, number: int) -> None:
        """Signal the main process."""
        os.kill(self.pid, number)

    def listen(self) -> None:
        """Read what the engine's keeper says; nothing, as there is none."""

    def ended(self) -> int | None:
        """Collect ended children; return the main process's wait status once it has ended."""
        return reap(self.pid)

    def kill_rest(self) -> None:
        """Kill everything below the shim."""
        kill_tree()


class SandboxedEngine:
    """An engine of another user, which systemd started for this connection (`sandbox`).

    Raises:
        OSError: there is no answer at the socket, or no engine was started.
    """

    def __init__(self, command: "dict[str, Any]", output: int) -> None:
        import socket  # not above: a shim whose engine is its child does without

        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(SANDBOX_SECONDS)
        try:
            self._connection.connect(str(command["launcher"]))
        except OSError as error:
            raise OSError(f"{command['launcher']} starts no engine: {error.strerror}") from error
        asked = {name: command[name] for name in ("argv", "env", "cores")}
        line = json.dumps({"version": SANDBOX_VERSION, **asked}).encode() + b"\n"
        sent = socket.send_fds(self._connection, [line], [output])
        self._connection.sendall(line[sent:])
        self._unread = b""
        self._status: int | None = None
        self._told_bytes = 0
        told: list[dict[str, object]] = []
        while not told:
            data = self._connection.recv(65536)
            if not data:
                raise OSError(f"{command['launcher']} started no engine; see the log of its unit")
            told = self._lines(data)
        first, *more = told
        if "refused" in first:
            raise OSError(f"the engine's user did not start it: {first['refused']}")
        self.pid = int(str(first["pid"]))
        self.cgroup = str(first["cgroup"])
        self.folder = str(first["folder"])
        self.shared = str(first["shared"])
        self._limit: int = (command.get("memory_max") or 0) if self.cgroup else 0
        if self._limit:
            limit_memory(self.cgroup, self._limit)
        self._take(more)  # an engine that ended at once
        self._connection.setblocking(False)
        self.descriptor = self._connection.fileno()

    def _lines(self, data: bytes) -> list[dict[str, object]]:
        *lines, self._unread = (self._unread + data).split(b"\n")
        if any(len(line) > MAX_LINE_BYTES for line in (*lines, self._unread)):
            raise ValueError("a line is too long")
        found = [json.loads(line) for line in lines]
        if not all(isinstance(told, dict) for told in found):
            raise ValueError("a line is no object")
        return found

    def _take(self, told: list[dict[str, object]]) -> None:
        for facts in told:
            peak, status = facts.get("peak_pss_bytes"), facts.get("status")
            if isinstance(peak, int) and 0 <= peak < MOST_MEMORY_BYTES:
                self._told_bytes = peak
            if isinstance(status, int) and 0 <= status < 1 << 16:
                self._status = status

    def memory(self) -> int:
        """Return the bytes of the engine, and see that its memory is still limited.

        The kernel tells what its cgroup has to itself. The process that keeps it tells the
        proportional set size, which also has the engine's share of the files that it maps, and
        lacks what no process maps: the larger of the two counts, so nothing that is said makes an
        engine smaller. systemd may take a limit back that it did not set when it reads its units.
        """
        if self._limit:
            limit_memory(self.cgroup, self._limit)
        return max(self._told_bytes, charged_bytes(self.cgroup))

    def send(self, number: int) -> None:
        """Signal the main process; SIGKILL goes to everything, and asks nobody."""
        if number == signal.SIGKILL and kill_cgroup(self.cgroup):
            return
        try:
            self._connection.send(bytes([number]))
        except OSError:
            return  # it is gone, which `listen` is told as well

    def listen(self) -> None:
        """Read what the sandbox's process says: memory, and how the engine ended."""
        try:
            data = self._connection.recv(65536)
            self._take(self._lines(data))
        except BlockingIOError:
            return
        except (OSError, ValueError, RecursionError):
            data = b""  # it says what only an engine that took it over would say: it is ended
        if not data and self._status is None:
            self._status = int(signal.SIGKILL)

    def ended(self) -> int | None:
        """Return the main process's wait status once it was told, or ended without a word."""
        return self._status

    def kill_rest(self) -> None:
        """Kill everything in the engine's cgroup, and wait until it is empty."""
        self._connection.close()
        for _ in range(KILL_ROUNDS):
            if not cgroup_pids(self.cgroup):
                return
            kill_cgroup(self.cgroup)
            time.sleep(KILL_ROUND_SECONDS)


def kill_cgroup(folder: str) -> bool:
    """Kill all processes of a cgroup at once; return whether the kernel took that."""
    if not folder:
        return False
    try:
        descriptor = os.open(f"{folder}/cgroup.kill", os.O_WRONLY)
    except OSError:
        return False
    try:
        return os.write(descriptor, b"1") == 1
    except OSError:
        return False
    finally:
        os.close(descriptor)


def limit_memory(folder: str, limit: int) -> None:
    """Limit a cgroup's memory in bytes. Swapping an engine out would stall its neighbours."""
    pages = limit - limit % os.sysconf("SC_PAGE_SIZE")  # as the kernel keeps it
    for name, value in (("memory.max", pages), ("memory.swap.max", 0)):
        try:
            with open(f"{folder}/{name}", "r+", encoding="ascii") as file:
                if file.read().strip() != str(value):
                    file.seek(0)
                    file.write(str(value))
        except OSError:
            continue  # this host's hierarchy has no controller of memory, or the cgroup is gone


def charged_bytes(folder: str) -> int:
    """Return what a cgroup has to itself: memory of its processes, and files that are in memory
    alone. 0 where the hierarchy has no controller of memory.
    """
    found = 0
    for line in read_text(f"{folder}/memory.stat").splitlines() if folder else ():
        name, _, value = line.partition(" ")
        if name in ("anon", "shmem"):
            found += int(value)
    return found


def cgroup_pids(folder: str) -> list[int]:
    """Return the processes of a cgroup and those below it; none where it is gone.

    A process that ends is among them until its memory is given back (seen on Linux 6.18).
    """
    found = []
    for place, _, files in os.walk(folder) if folder else ():
        if "cgroup.procs" in files:
            found += [int(pid) for pid in read_text(f"{place}/cgroup.procs").split()]
    return found


def supervise(
    engine: "ChildEngine | SandboxedEngine",
    output: int,
    wakeup: int,
    log: RotatedLog,
    memory: ShimMemory,
    *,
    lifeline: int = -1,
) -> int:
    """Pump output, sample memory, pass signals on; returns the main process's wait status."""
    poller = select.poll()
    poller.register(output, select.POLLIN)
    poller.register(wakeup, select.POLLIN)
    if engine.descriptor >= 0:
        poller.register(engine.descriptor, select.POLLIN)
    if lifeline >= 0:
        poller.register(lifeline, 0)  # An end of file is reported unasked.
    while True:
        for descriptor, _ in poller.poll(memory.wait_milliseconds()):
            if descriptor == output:
                if not pump(output, log):
                    poller.unregister(output)
                continue
            if descriptor == lifeline:
                poller.unregister(lifeline)
                engine.send(signal.SIGKILL)
                continue
            if descriptor == engine.descriptor:
                engine.listen()
            else:
                for number in os.read(wakeup, 64):
                    if number == signal.SIGTERM:
                        engine.send(signal.SIGTERM)
                    elif number == signal.SIGQUIT:
                        engine.send(signal.SIGKILL)
            status = engine.ended()
            if status is not None:
                return status
        memory.sample_if_due()


def prepare_signals() -> int:
    """Turn signals into bytes on a pipe, so that the loop alone acts on them."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(wake_write)
    return wake_read


def start(run_dir: str) -> "tuple[ChildEngine | SandboxedEngine, int, int, RotatedLog]":
    """Set this process up and start the engine; returns it, its output, wakeup pipe and log."""
    os.setsid()
    os.umask(0o077)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    command = json.loads(read_text(os.path.join(run_dir, "command.json")))
    write_identity(run_dir, 0)
    os.sched_setaffinity(0, command["cores"])
    log = RotatedLog(os.path.join(run_dir, "engine.log"))
    wakeup = prepare_signals()
    output, engine_output = os.pipe()
    engine = _start_engine(run_dir, command, engine_output)
    os.close(engine_output)
    os.set_blocking(output, False)
    write_identity(run_dir, engine.pid, engine.cgroup)
    return engine, output, wakeup, log


def take(
    run_dir: str, pid: int, output: int, gate: int
) -> "tuple[ChildEngine | SandboxedEngine, int, int, RotatedLog]":
    """Supervise a child that this process forked before it became the shim (`warm_parent`)."""
    wakeup = prepare_signals()
    signal.raise_signal(signal.SIGCHLD)  # it may have ended before anybody listened
    os.set_blocking(output, False)
    write_identity(run_dir, pid, forked=pid)
    os.write(gate, b"go")
    os.close(gate)
    return ChildEngine(pid), output, wakeup, RotatedLog(os.path.join(run_dir, "engine.log"))


def own_cgroup(proc: str = "/proc/self") -> str:
    """Return the folder of this process's cgroup (version 2), or "" if the host has none."""
    groups = read_text(f"{proc}/cgroup").splitlines()
    path = next((line[3:] for line in groups if line.startswith("0::")), None)
    for line in read_text(f"{proc}/mountinfo").splitlines() if path is not None else ():
        fields, _, kind = line.partition(" - ")
        if kind.split()[:1] != ["cgroup2"]:
            continue
        root, mounted = fields.split()[3:5]
        below = os.path.relpath(str(path), root)
        if below != ".." and not below.startswith("../"):
            return os.path.normpath(os.path.join(mounted, below))
    return ""


def _start_engine(
    run_dir: str, command: "dict[str, Any]", output: int
) -> "ChildEngine | SandboxedEngine":
    if command.get("launcher"):
        engine = SandboxedEngine(command, output)
        # Everything else finds the engine's socket where it is without another user.
        os.symlink(os.path.join(engine.folder, "engine.sock"), os.path.join(run_dir, "engine.sock"))
        if engine.shared:
            os.write(output, f"engines of this user are not kept apart: {engine.shared}\n".encode())
        return engine
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        become_engine(command["argv"], command["env"], command["cwd"], output, supervisor)
    return ChildEngine(pid)


def finish(
    run_dir: str,
    engine: "ChildEngine | SandboxedEngine",
    status: int,
    output: int,
    log: RotatedLog,
    *,
    oom_before: int,
) -> None:
    """Kill what is left, keep the last output, and record how the engine ended."""
    engine.kill_rest()
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline and select.select([output], [], [], 0.05)[0]:
        if not pump(output, log):
            break
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    write_json(
        os.path.join(run_dir, "exit.json"),
        {
            "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "signal": number,
            "time": time.time(),
            "oom_kills": oom_kills() - oom_before,
        },
    )


def main(run_dir: str, option: str = "", *numbers: str) -> None:
    """Supervise one engine from start to end; with a lifeline, only as long as it is held."""
    lifeline, ready, forked = -1, -1, []
    if option == "--with-parent":
        lifeline = int(numbers[0])
    if option == "--engine":
        pid, output, ready, gate, lifeline = (int(number) for number in numbers)
        forked = [pid, output, gate]
    else:
        try:
            ready = leave_parent()
        except OSError as error:
            os.write(2, str(error).encode())
            os._exit(error.errno or 1)
    if lifeline >= 0:
        os.set_inheritable(lifeline, False)
    oom_before = oom_kills()
    try:
        engine, output, wakeup, log = take(run_dir, *forked) if forked else start(run_dir)
    except (OSError, ValueError, KeyError) as error:
        report(ready, error)
        os._exit(1)
    os.write(ready, b"ok")
    os.close(ready)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    alone = forked[0] if forked and lifeline >= 0 else 0
    memory = ShimMemory(lambda peak: keep_peak(run_dir, peak), engine.memory, alone=alone)
    status = supervise(engine, output, wakeup, log, memory, lifeline=lifeline)
    finish(run_dir, engine, status, output, log, oom_before=oom_before)


if __name__ == "__main__":
    main(*sys.argv[1:])
