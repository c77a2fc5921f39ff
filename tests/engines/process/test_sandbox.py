"""An engine of another user is kept apart, and neither it nor its keeper is taken at its word."""

import asyncio
import contextlib
import json
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from partitiond.core.errors import StartFailedError
from partitiond.engines.process import sandbox, shim
from partitiond.engines.process import signals as process
from partitiond.engines.process.commands import shim_command
from partitiond.engines.process.journal import ExitRecord, RunFolder
from partitiond.engines.process.spawn import spawn_shim
from tests.engine_fixtures import simulated_launch
from tests.engines.process.scripts import Launcher, Script
from tests.machine import until

REACHES = """
import ctypes, os
other = VICTIM or os.getppid()
for what in ("environ", "mem", "maps", "fd/0", "cwd", "root"):
    path = f"/proc/{other}/{what}"
    try:
        os.readlink(path) if what in ("fd/0", "cwd", "root") else open(path, "rb").read(1)
        if VICTIM or what in ("environ", "mem", "fd/0"):
            print("read", what)
    except OSError:
        pass
libc = ctypes.CDLL(None, use_errno=True)
if VICTIM and libc.ptrace(16, other, 0, 0) == 0:
    print("traced")
pidfd = os.pidfd_open(other)
for number in range(8):
    if libc.syscall(438, pidfd, number, 0) >= 0:  # pidfd_getfd
        print("took", number)
try:
    os.kill(other, 0)
    print("signalled")
except OSError:
    pass
"""


@pytest.mark.parametrize(
    ("unit", "own"),
    [
        ("partitiond-engine@1.service", True),
        ("partitiond-mps-blue@2.service", True),
        ("partitiond-engine@1.service/below", False),
        ("partitiond.service", False),
        ("system-partitiond-engine.slice", False),
        ("partitiond-engine.slice", False),
    ],
)
def test_the_cgroup_of_a_unit_is_read_from_proc(tmp_path: Path, unit: str, own: bool) -> None:
    """Whoever kills what is in another cgroup kills more than the engine."""
    (tmp_path / "cgroup").write_text(f"4:memory:/old\n0::/system.slice/{unit}\n")
    (tmp_path / "mountinfo").write_text(
        "30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
    )
    folder = f"/sys/fs/cgroup/unified/system.slice/{unit}"
    assert sandbox.unit_cgroup(str(tmp_path)) == (folder if own else "")
    assert shim.own_cgroup(str(tmp_path)) == folder
    (tmp_path / "cgroup").write_text("4:memory:/old\n")
    assert not sandbox.unit_cgroup(str(tmp_path))


async def test_engines_of_one_user_reach_neither_each_other_nor_what_keeps_them(
    tmp_path: Path, launcher: Launcher
) -> None:
    """An engine of the same group is a process of the same user; who could stop its keeper or take
    its connection would outlive the shim.
    """
    version = sandbox.landlock_version()
    assert version >= 1, "this kernel has no Landlock"
    first = Script(RunFolder.of(tmp_path, "first-0"), launcher)
    await first.start(
        "import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)", "pid "
    )
    victim = int(first.folder.log.read_text().split()[1])
    for other in (victim, 0):
        second = Script(RunFolder.of(tmp_path, f"second-{other}"), launcher)
        record = await second.finished(REACHES.replace("VICTIM", str(other)))
        assert record["code"] == 0
        reached = second.folder.log.read_text().splitlines()
        assert reached == ([] if version >= 6 else ["signalled"])
    await first.quit()


STARTED = json.dumps({"folder": "/nowhere", "cgroup": "", "pid": 1, "shared": ""}).encode() + b"\n"
"""What a shim is told of an engine that was started."""


async def ended(
    folder: RunFolder,
    first: bytes,
    then: bytes = b"",
    *,
    done: Callable[[], bool] = lambda: True,
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
                await until(done)
            connection.shutdown(socket.SHUT_WR)
            await starting
            leader = folder.leader()
            assert leader is not None
            await asyncio.wait_for(process.wait_gone(leader), 60)
    exited = folder.exit()
    assert exited is not None
    return exited


async def test_whatever_is_said_over_the_connection_the_shim_ends_the_engine(
    tmp_path: Path,
) -> None:
    """What an engine could say that took the connection over, and then went silent."""
    for number, said in enumerate(
        (
            b"[" * 4_000 + b"\n",
            b'{"status": 99999999999999}\n',
            b'{"status": -1}\n{"status": "0"}\n',
            b'{"peak_pss_bytes": ' + b"9" * 4000 + b"}\n",
            b"7\n",
            b"x" * 100_000,
        )
    ):
        folder = RunFolder.of(tmp_path, f"script-{number}")
        exited = await ended(folder, STARTED, said)
        assert (exited.code, exited.signal) == (None, signal.SIGKILL), said[:40]
        assert folder.peak_pss_bytes() < 2**40
    # The status of one that ends at once comes in one piece with what is said at the start.
    exited = await ended(RunFolder.of(tmp_path, "quick"), STARTED + b'{"status": 32512}\n')
    assert (exited.code, exited.signal) == (127, None)


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

    def enough() -> bool:
        limit = (cgroup / "memory.max").read_text()
        if limit:
            limits.append(limit)
            (cgroup / "memory.max").write_text("")
        return len(limits) > 1

    said = b'{"peak_pss_bytes": 1000}\n'
    await ended(folder, started, said, done=enough, memory_max=1 << 30)
    assert limits == [str(1 << 30)] * 2
    assert 500_000_000 <= folder.peak_pss_bytes() < 600_000_000
    said = b'{"peak_pss_bytes": 700000000}\n'  # what it maps of files counts where it is more
    await ended(folder, started, said, done=lambda: folder.peak_pss_bytes() > 700_000_000)


async def test_what_is_no_command_starts_nothing_nor_does_a_launcher_that_is_not_there(
    launcher: Launcher, folder: RunFolder
) -> None:
    sound = b'"argv": ["/bin/true"], "env": {}, "cores": '
    for number, sent in enumerate(
        (
            *(b"", b"{}\n", b"[]\n", b"not json\n", b'{"version": 1}\n'),
            b'{"version": 2, ' + sound + b"[0]}\n",
            b'{"version": 1, "argv": "x", "env": {}, "cores": [0]}\n',
            b'{"version": 1, ' + sound + b"[4095]}\n",
            b"x" * (sandbox.MAX_COMMAND_BYTES + 1),
        )
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(launcher.path))
            with contextlib.suppress(BrokenPipeError):
                if sent:
                    socket.send_fds(client, [sent[:1]], [client.fileno()])
                client.sendall(sent[1:])
                client.shutdown(socket.SHUT_WR)
            said = client.makefile("rb").read()
        assert b"refused" in said, sent[:60]
        assert launcher.started[number].wait(60) == 1
    launch = simulated_launch()
    command = shim_command(["/bin/true"], {}, launch, folder) | {"launcher": "/nowhere/l.sock"}
    folder.prepare(launch, command)
    with pytest.raises(StartFailedError, match=r"/nowhere/l.sock starts no engine: No such file"):
        await spawn_shim(folder)
