"""An engine of another user is supervised like an own one, through systemd's connection."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.errors import StartFailedError
from partitiond.engines.process import sandbox, shim
from partitiond.engines.process import signals as process
from partitiond.engines.process.commands import shim_command
from partitiond.engines.process.journal import ExitRecord, RunFolder
from partitiond.engines.process.signals import ProcessId
from partitiond.engines.process.spawn import spawn_shim
from tests.engine_fixtures import simulated_launch

ORDINARY = ["setpriv", "--bounding-set=-sys_admin,-perfmon"] if os.geteuid() == 0 else []
"""As root a process may read others beyond its domain; no engine is root."""


class Launcher:
    """Accepts connections as systemd's socket does: one process for each, with a folder."""

    def __init__(self, folder: Path, words: Sequence[str] = ORDINARY) -> None:
        self.folder = folder
        self._words = words
        self.path = folder / "launch.sock"
        self.started: list[subprocess.Popen[bytes]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            folder = self.folder / str(len(self.started))
            folder.mkdir()
            with connection:
                self.started.append(
                    subprocess.Popen(
                        [
                            *self._words,
                            sys.executable,
                            "-I",
                            sandbox.__file__,
                            "--without-cgroup",
                        ],
                        stdin=connection.fileno(),
                        env={"RUNTIME_DIRECTORY": str(folder), "PATH": "/usr/bin:/bin"},
                        start_new_session=True,
                    )
                )

    def close(self) -> None:
        """Stop accepting, and end what was started."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for started in self.started:
            started.kill()
            started.wait()


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    with tempfile.TemporaryDirectory(prefix="pd-") as folder:
        made = Launcher(Path(folder))
        yield made
        made.close()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.of(tmp_path, "script-0")


async def supervised(folder: RunFolder, launcher: Launcher, script: str) -> ProcessId:
    launch = simulated_launch()
    argv = [sys.executable, "-I", "-c", textwrap.dedent(script)]
    command = shim_command(argv, {}, launch, folder) | {"launcher": str(launcher.path)}
    folder.prepare(launch, command)
    await spawn_shim(folder)
    leader = folder.process()
    assert leader is not None
    return leader


async def finished(folder: RunFolder, launcher: Launcher, script: str) -> dict[str, Any]:
    leader = await supervised(folder, launcher, script)
    await asyncio.wait_for(process.wait_gone(leader), 20)
    record: dict[str, Any] = json.loads((folder.path / "exit.json").read_text())
    return record


async def until_logged(folder: RunFolder, text: str) -> None:
    for _ in range(400):
        if text in shim.read_text(str(folder.log)):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{text!r} never came: {shim.read_text(str(folder.log))!r}")


async def test_output_and_exit_are_kept_and_the_folder_is_its_own(
    folder: RunFolder, launcher: Launcher
) -> None:
    record = await finished(
        folder,
        launcher,
        """
        import json, os, sys
        print(json.dumps({
            "cwd": os.getcwd(), "home": os.environ["HOME"], "temporary": os.environ["TMPDIR"],
            "umask": os.umask(0), "stdin": os.readlink("/proc/self/fd/0"),
            "cores": sorted(os.sched_getaffinity(0)),
            "open": sorted(os.listdir("/proc/self/fd")),
            "sockets": [l for l in map(lambda n: os.readlink(f"/proc/self/fd/{n}"), "012")
                        if l.startswith("socket")],
        }))
        sys.exit(3)
        """,
    )
    assert (record["code"], record["signal"]) == (3, None)
    seen = json.loads(folder.log.read_text())
    own = launcher.folder / "0"
    assert seen["cwd"] == str(own)
    assert seen["home"] == seen["temporary"] == sandbox.OWN_TMP
    assert seen["umask"] == 0
    assert seen["stdin"] == "/dev/null"
    assert seen["cores"] == list(simulated_launch().cores)
    assert len(seen["open"]) == 4  # 0, 1, 2, and the folder that is listed
    assert seen["sockets"] == []


async def test_the_socket_is_found_where_it_is_without_another_user(
    folder: RunFolder, launcher: Launcher
) -> None:
    leader = await supervised(
        folder,
        launcher,
        """
        import socket, time
        listener = socket.socket(socket.AF_UNIX); listener.bind("engine.sock"); listener.listen()
        print("listens", flush=True)
        time.sleep(600)
        """,
    )
    await until_logged(folder, "listens")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder.socket))
    process.send_signal(leader, signal.SIGQUIT)
    await asyncio.wait_for(process.wait_gone(leader), 20)


async def test_sigterm_reaches_the_main_process_and_sigquit_needs_no_consent(
    folder: RunFolder, launcher: Launcher
) -> None:
    leader = await supervised(
        folder,
        launcher,
        """
        import signal, time
        signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
        print("up", flush=True)
        while True:
            time.sleep(1)
        """,
    )
    await until_logged(folder, "up")
    process.send_signal(leader, signal.SIGTERM)
    await until_logged(folder, "asked")
    assert process.is_alive(leader)
    process.send_signal(leader, signal.SIGQUIT)
    await asyncio.wait_for(process.wait_gone(leader), 20)
    exited = folder.exit()
    assert exited is not None
    assert (exited.code, exited.signal) == (None, signal.SIGKILL)


@pytest.mark.parametrize("dies", ["shim", "sandbox"])
async def test_the_engine_dies_with_whatever_supervises_it(
    folder: RunFolder, launcher: Launcher, dies: str
) -> None:
    leader = await supervised(
        folder,
        launcher,
        """
        import time
        print("up", flush=True)
        time.sleep(600)
        """,
    )
    await until_logged(folder, "up")
    main = int(json.loads((folder.path / "process.json").read_text())["main_pid"])
    os.kill(leader.pid if dies == "shim" else launcher.started[0].pid, signal.SIGKILL)
    await asyncio.wait_for(process.wait_gone(leader), 20)
    for _ in range(400):
        if not shim.stat_fields(main) or shim.stat_fields(main)[0] in "ZX":
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("the engine lives on")


async def test_memory_is_that_of_the_engine(folder: RunFolder, launcher: Launcher) -> None:
    leader = await supervised(
        folder,
        launcher,
        "held = b'x' * 200_000_000; print('up', flush=True); import time; time.sleep(60)",
    )
    await until_logged(folder, "up")
    for _ in range(400):
        if folder.peak_pss_bytes() > 200_000_000:
            break
        await asyncio.sleep(0.05)
    assert 200_000_000 < folder.peak_pss_bytes() < 400_000_000
    process.send_signal(leader, signal.SIGQUIT)
    await asyncio.wait_for(process.wait_gone(leader), 20)


async def test_engines_of_one_user_can_neither_trace_nor_signal_each_other(
    tmp_path: Path, launcher: Launcher
) -> None:
    """A process of the same user, which is what an engine of the same group is."""
    first, second = RunFolder.of(tmp_path, "first-0"), RunFolder.of(tmp_path, "second-0")
    leader = await supervised(
        first, launcher, "import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)"
    )
    await until_logged(first, "pid ")
    victim = int(first.log.read_text().split()[1])
    record = await finished(
        second,
        launcher,
        f"""
        import ctypes, os
        for what in ("environ", "mem", "maps", "fd/0", "cwd", "root"):
            path = "/proc/{victim}/" + what
            try:
                os.readlink(path) if what in ("fd/0", "cwd", "root") else open(path, "rb").read(1)
                print("read", what)
            except OSError:
                pass
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ptrace(16, {victim}, 0, 0) == 0:
            print("traced")
        try:
            os.kill({victim}, 0)
            print("signalled")
        except OSError:
            pass
        """,
    )
    assert record["code"] == 0
    version = sandbox.landlock_version()
    reached = second.log.read_text().splitlines()
    assert version >= 1, "this kernel has no Landlock"
    assert reached == ([] if version >= 6 else ["signalled"])
    process.send_signal(leader, signal.SIGQUIT)
    await asyncio.wait_for(process.wait_gone(leader), 20)


async def test_an_engine_reaches_not_even_what_keeps_it(
    folder: RunFolder, launcher: Launcher
) -> None:
    """Who could stop it or take its connection would outlive the shim."""
    record = await finished(
        folder,
        launcher,
        """
        import ctypes, os
        parent = os.getppid()
        for what in ("environ", "mem", "fd/0"):
            path = f"/proc/{parent}/{what}"
            try:
                os.readlink(path) if what == "fd/0" else open(path, "rb").read(1)
                print("read", what)
            except OSError:
                pass
        libc = ctypes.CDLL(None, use_errno=True)
        pidfd = os.pidfd_open(parent)
        for number in range(8):
            if libc.syscall(438, pidfd, number, 0) >= 0:  # pidfd_getfd
                print("took", number)
        try:
            os.kill(parent, 0)
            print("signalled")
        except OSError:
            pass
        """,
    )
    assert record["code"] == 0
    signals = [] if sandbox.landlock_version() >= 6 else ["signalled"]
    assert folder.log.read_text().splitlines() == signals


STARTED = json.dumps({"folder": "/nowhere", "cgroup": "", "pid": 1, "shared": ""}).encode() + b"\n"
"""What a shim is told of an engine that was started."""


async def ended(
    folder: RunFolder,
    first: bytes,
    then: bytes = b"",
    *,
    until: Callable[[], bool] = lambda: True,
    memory_max: int | None = None,
) -> ExitRecord:
    """How a shim says that an engine ended whose keeper says this, and goes silent."""
    with tempfile.TemporaryDirectory(prefix="pd-") as short, socket.socket(socket.AF_UNIX) as here:
        here.bind(f"{short}/l.sock")
        here.listen()
        launch = simulated_launch()
        command = shim_command(["/bin/true"], {}, launch, folder)
        more = {"launcher": f"{short}/l.sock", "memory_max": memory_max}
        folder.prepare(launch, command | more)
        starting = asyncio.ensure_future(spawn_shim(folder))
        connection, _ = await asyncio.to_thread(here.accept)
        with connection:
            connection.sendall(first)
            if then:
                await starting
                with contextlib.suppress(OSError):
                    connection.sendall(then)
                for _ in range(400):
                    if until():
                        break
                    await asyncio.sleep(0.05)
            connection.shutdown(socket.SHUT_WR)
            await starting
            leader = folder.process()
            assert leader is not None
            await asyncio.wait_for(process.wait_gone(leader), 20)
    exited = folder.exit()
    assert exited is not None
    return exited


async def test_the_status_of_an_engine_that_ends_at_once_is_kept(folder: RunFolder) -> None:
    """It comes in one piece with what is said at the start."""
    exited = await ended(folder, STARTED + b'{"status": 32512}\n')
    assert (exited.code, exited.signal) == (127, None)


@pytest.mark.parametrize(
    "said",
    [
        b"[" * 4_000 + b"\n",
        b'{"status": 99999999999999}\n',
        b'{"status": -1}\n{"status": "0"}\n',
        b'{"peak_pss_bytes": ' + b"9" * 4000 + b"}\n",
        b"7\n",
        b"x" * 100_000,
    ],
)
async def test_whatever_is_said_over_the_connection_the_shim_ends_the_engine(
    folder: RunFolder, said: bytes
) -> None:
    """What an engine could say that took the connection over, and then went silent."""
    exited = await ended(folder, STARTED, said)
    assert (exited.code, exited.signal) == (None, signal.SIGKILL)
    assert folder.peak_pss_bytes() < 2**40


async def test_nothing_that_is_said_makes_an_engine_smaller_or_gives_it_more(
    folder: RunFolder, tmp_path: Path
) -> None:
    """The kernel is asked for its memory, and the limit is set again where it was taken back."""
    cgroup = tmp_path / "cgroup"
    cgroup.mkdir()
    (cgroup / "memory.stat").write_text("anon 300000000\nfile 900000000\nshmem 200000000\n")
    (cgroup / "memory.max").write_text("")
    started = STARTED.replace(b'"cgroup": ""', f'"cgroup": "{cgroup}"'.encode())
    limits = []

    def until() -> bool:
        limit = (cgroup / "memory.max").read_text()
        if limit:
            limits.append(limit)
            (cgroup / "memory.max").write_text("")
        return len(limits) > 1

    said = b'{"peak_pss_bytes": 1000}\n'
    await ended(folder, started, said, until=until, memory_max=1 << 30)
    assert limits == [str(1 << 30)] * 2
    assert 500_000_000 <= folder.peak_pss_bytes() < 600_000_000


async def test_what_it_maps_of_files_counts_where_it_is_more(
    folder: RunFolder, tmp_path: Path
) -> None:
    (tmp_path / "memory.stat").write_text("anon 3\nshmem 2\n")
    started = STARTED.replace(b'"cgroup": ""', f'"cgroup": "{tmp_path}"'.encode())
    said = b'{"peak_pss_bytes": 700000000}\n'
    await ended(folder, started, said, until=lambda: folder.peak_pss_bytes() > 700_000_000)
    assert folder.peak_pss_bytes() > 700_000_000


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{}\n",
        b"[]\n",
        b"not json\n",
        b'{"version": 1}\n',
        b'{"version": 2, "argv": ["/bin/true"], "env": {}, "cores": [0]}\n',
        b'{"version": 1, "argv": "x", "env": {}, "cores": [0]}\n',
        b'{"version": 1, "argv": ["/bin/true"], "env": {}, "cores": [4095]}\n',
        b"x" * (sandbox.MAX_COMMAND_BYTES + 1),
    ],
)
def test_what_is_no_command_starts_nothing(launcher: Launcher, sent: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(launcher.path))
        try:
            if sent:
                socket.send_fds(client, [sent[:1]], [os.open(os.devnull, os.O_WRONLY)])
            client.sendall(sent[1:])
            client.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            pass
        said = client.makefile("rb").read()
    assert b"refused" in said
    assert launcher.started[0].wait(30) == 1


async def test_a_launcher_that_is_not_there_is_an_error_that_names_it(folder: RunFolder) -> None:
    launch = simulated_launch()
    command = shim_command(["/bin/true"], {}, launch, folder) | {"launcher": "/nowhere/l.sock"}
    folder.prepare(launch, command)
    with pytest.raises(StartFailedError, match=r"/nowhere/l.sock starts no engine: No such file"):
        await spawn_shim(folder)


def test_the_numbers_are_those_of_the_kernel() -> None:
    assert struct.calcsize("QQQ") == 24
    assert sandbox.MAKE_DEVICES == 0x40 | 0x800
