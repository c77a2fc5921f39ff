"""The shim keeps the promises of an engine's supervisor, around small scripts.

Also where the engine is another user's: then it is supervised through systemd's connection.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from partitiond.core.errors import StartFailedError
from partitiond.engines.process import sandbox, shim
from partitiond.engines.process import signals as process
from partitiond.engines.process.commands import shim_command
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.spawn import spawn_or_undo, spawn_shim
from partitiond.platform.process_identity import is_alive
from tests.engine_fixtures import simulated_launch
from tests.engines.process.scripts import Launcher, Script
from tests.machine import until

WAITS = "import time; print('ready', flush=True); time.sleep(600)"


@pytest.fixture
def ours(folder: RunFolder) -> Script:
    return Script(folder)


@pytest.fixture(params=["ours", "another user's"])
def keeper(request: pytest.FixtureRequest) -> Launcher | None:
    return request.getfixturevalue("launcher") if request.param != "ours" else None


@pytest.fixture
def script(folder: RunFolder, keeper: Launcher | None) -> Script:
    return Script(folder, keeper)


async def test_the_engine_has_a_session_a_folder_and_little_environment(
    script: Script, keeper: Launcher | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    record = await script.finished(
        """
        import json, os, sys, tempfile
        print(json.dumps({
            "session": os.getsid(0), "parent": os.getppid(), "cwd": os.getcwd(),
            "temporary": os.environ["TMPDIR"], "umask": os.umask(0),
            "environment": sorted(os.environ), "cores": sorted(os.sched_getaffinity(0)),
            "stdin": os.readlink("/proc/self/fd/0"), "open": len(os.listdir("/proc/self/fd")),
            "sockets": [l for l in map(lambda n: os.readlink(f"/proc/self/fd/{n}"), "012")
                        if l.startswith("socket")],
        }))
        sys.stderr.write("err")
        sys.exit(3)
        """
    )
    assert (record["code"], record["signal"]) == (3, None)
    line, _, error = script.folder.log.read_text().rpartition("\n")
    seen = json.loads(line)
    assert error == "err"
    assert seen["stdin"] == "/dev/null"
    assert seen["cores"] == list(simulated_launch().cores)
    assert "HF_TOKEN" not in seen["environment"]
    assert process.REPLICA_DIR_VARIABLE in seen["environment"]
    if keeper is None:
        assert seen["session"] == seen["parent"] == script.leader.pid
        assert seen["cwd"] == str(script.folder.path)
        assert seen["temporary"] == str(script.folder.temporary)
        assert seen["umask"] == 0o077
    else:
        assert seen["cwd"] == str(keeper.folder / "0")
        assert seen["temporary"] == sandbox.OWN_TMP
        assert seen["umask"] == 0
        assert seen["open"] == 4  # 0, 1, 2, and the folder that is listed
        assert seen["sockets"] == []


async def test_children_do_not_outlive_the_main_process(ours: Script) -> None:
    """Not even one that left the session, the group and its parent."""
    record = await ours.finished(
        """
        import os, time
        up, child = os.pipe()
        if os.fork() == 0:
            os.write(child, b"1")
            time.sleep(600)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(child, b"1")
                time.sleep(600)
            os._exit(0)
        for _ in range(2):
            os.read(up, 1)
        os.kill(os.getpid(), 11)
        """
    )
    assert (record["code"], record["signal"]) == (None, 11), "told apart from a code"
    assert process.processes_of(ours.folder.path, ours.folder.leader()) == []
    launch = simulated_launch()
    ours.folder.prepare(launch, shim_command(["/nowhere/python"], {}, launch, ours.folder))
    await spawn_shim(ours.folder)
    await ours.gone()
    assert "cannot start /nowhere/python" in ours.folder.log.read_text()


async def test_sigterm_reaches_the_main_process_and_sigquit_needs_no_consent(
    script: Script,
) -> None:
    leader = await script.start(
        """
        import signal, socket
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # kept until it is waited for
        listener = socket.socket(socket.AF_UNIX); listener.bind("engine.sock"); listener.listen()
        print("ready", flush=True)
        while True:
            signal.sigwait([signal.SIGTERM])
            print("asked to end", flush=True)
        """,
        "ready",
    )
    _, writer = await asyncio.open_unix_connection(script.folder.socket)
    writer.close()
    await writer.wait_closed()
    assert process.send_signal(leader, signal.SIGTERM)
    await script.said("asked to end")
    assert is_alive(leader)
    await script.quit()
    assert process.processes_of(script.folder.path, leader) == []
    exited = script.folder.exit()
    assert exited is not None
    assert (exited.code, exited.signal) == (None, signal.SIGKILL)


@pytest.mark.parametrize(
    ("keeper", "dies"),
    [("ours", "shim"), ("another user's", "shim"), ("another user's", "sandbox")],
    indirect=["keeper"],
)
async def test_the_engine_dies_with_whatever_supervises_it(
    script: Script, keeper: Launcher | None, dies: str
) -> None:
    leader = await script.start(WAITS, "ready")
    main = int(json.loads((script.folder.path / "process.json").read_text())["main_pid"])
    pid = leader.pid if keeper is None or dies == "shim" else keeper.started[0].pid
    os.kill(pid, signal.SIGKILL)
    await script.gone()
    if keeper is None:
        await process.kill_all(script.folder.path, leader)
        assert process.processes_of(script.folder.path, leader) == []
    await until(lambda: (shim.stat_fields(main) or "Z")[0] in "ZX")


async def test_the_supervisor_is_small_and_no_child_of_ours_and_tells_memory_of_the_tree(
    script: Script, keeper: Launcher | None
) -> None:
    size = 100_000_000
    leader = await script.start(f"x = b'1' * {size}\nimport os; os.fork()\n{WAITS}", "ready")
    await until(lambda: script.folder.peak_pss_bytes() > size)
    assert size < script.folder.peak_pss_bytes() < 1.6 * size
    if keeper is None:
        assert size < process.bytes_alone(script.folder.path, leader) < 1.6 * size
        assert shim.pss_bytes(leader.pid) < 16 * 1024 * 1024
        assert int(shim.stat_fields(leader.pid)[1]) != os.getpid()
    await script.quit()


def test_the_log_is_rotated_and_bounded(tmp_path: Path) -> None:
    log = shim.RotatedLog(str(tmp_path / "engine.log"))
    block = b"x" * (1024 * 1024)
    for number in range(40):
        log.write(b"%02d" % number + block)
    there = sorted(tmp_path.iterdir())
    assert [path.name for path in there] == ["engine.log", "engine.log.1", "engine.log.2"]
    total = sum(path.stat().st_size for path in there)
    assert total <= shim.LOG_FILES * (shim.LOG_BYTES + len(block) + 2)
    # One that cannot be rotated is bounded, and goes on.
    (tmp_path / "engine.log.1").unlink()
    (tmp_path / "engine.log.1").mkdir()
    log.write(b"x" * shim.LOG_BYTES)
    # Whatever is opened next may get the number of a closed log: it must not be written to.
    with (tmp_path / "innocent").open("wb"):
        log.write(b"y")
    assert (tmp_path / "innocent").read_bytes() == b""
    assert (tmp_path / "engine.log").read_bytes() == b"y"


async def test_the_engine_ends_when_nobody_holds_its_lifeline(ours: Script) -> None:
    theirs, held = os.pipe()
    launch, folder = simulated_launch(), ours.folder
    argv = [sys.executable, "-I", "-c", WAITS]
    folder.prepare(launch, shim_command(argv, {}, launch, folder))
    await spawn_shim(folder, theirs)
    os.close(theirs)
    await ours.said("ready")
    assert is_alive(ours.leader)
    os.close(held)
    await ours.gone()
    assert process.processes_of(folder.path, ours.leader) == []


async def test_a_supervisor_that_is_late_does_not_start_the_engine_after_all(
    folder: RunFolder,
) -> None:
    folder.prepare(simulated_launch(), {})
    command = folder.path / "command.json"
    command.unlink()
    os.mkfifo(command)  # Reading it takes until somebody writes.
    with pytest.raises(StartFailedError, match="did not start in"):
        await spawn_or_undo(folder, seconds=0.2)
    with pytest.raises(OSError, match="No such device"):  # Nobody reads any more.
        os.close(os.open(command, os.O_WRONLY | os.O_NONBLOCK))
    assert process.processes_of(folder.path, folder.leader()) == []


def test_the_shim_needs_only_the_standard_library() -> None:
    """It runs with -I -S, without the packages of any environment."""
    source = Path(shim.__file__).read_text()
    imports = [line.split()[1] for line in source.splitlines() if line.startswith("import ")]
    assert set(imports) <= sys.stdlib_module_names
    assert "\nfrom " not in source
