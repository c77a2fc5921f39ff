"""The shim keeps the promises of an engine's supervisor, around small scripts."""

import asyncio
import json
import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.errors import StartFailedError
from partitiond.engines.process import shim
from partitiond.engines.process import signals as process
from partitiond.engines.process.commands import shim_command
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.signals import ProcessId
from partitiond.engines.process.spawn import spawn_or_undo, spawn_shim
from tests.engine_fixtures import simulated_launch


async def supervised(folder: RunFolder, script: str) -> ProcessId:
    """A supervised Python script instead of an engine."""
    launch = simulated_launch()
    argv = [sys.executable, "-I", "-c", textwrap.dedent(script)]
    folder.prepare(launch, shim_command(argv, {}, launch, folder))
    await spawn_shim(folder)
    leader = folder.process()
    assert leader is not None
    return leader


async def finished(folder: RunFolder, script: str) -> dict[str, Any]:
    leader = await supervised(folder, script)
    await asyncio.wait_for(process.wait_gone(leader), 20)
    record: dict[str, Any] = json.loads((folder.path / "exit.json").read_text())
    return record


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.of(tmp_path, "script-0")


async def test_output_and_exit_code_are_kept(folder: RunFolder) -> None:
    record = await finished(
        folder, "import sys; print('out'); sys.stderr.write('err'); sys.exit(3)"
    )
    assert (record["code"], record["signal"]) == (3, None)
    assert sorted(folder.log.read_text().split()) == ["err", "out"]


async def test_a_signal_is_told_apart_from_a_code(folder: RunFolder) -> None:
    record = await finished(folder, "import os; os.kill(os.getpid(), 11)")
    assert (record["code"], record["signal"]) == (None, 11)


async def test_a_program_that_cannot_start_says_so_in_the_log(folder: RunFolder) -> None:
    launch = simulated_launch()
    folder.prepare(launch, shim_command(["/nowhere/python"], {}, launch, folder))
    await spawn_shim(folder)
    leader = folder.process()
    assert leader is not None
    await asyncio.wait_for(process.wait_gone(leader), 20)
    assert "cannot start /nowhere/python" in folder.log.read_text()


async def test_the_engine_has_a_session_a_folder_and_little_environment(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    await finished(
        folder,
        """
        import json, os, tempfile
        print(json.dumps({
            "session": os.getsid(0), "parent": os.getppid(), "cwd": os.getcwd(),
            "temporary": tempfile.gettempdir(), "umask": os.umask(0),
            "environment": sorted(os.environ), "cores": sorted(os.sched_getaffinity(0)),
            "stdin": os.readlink("/proc/self/fd/0"),
        }))
        """,
    )
    seen = json.loads(folder.log.read_text())
    leader = folder.process()
    assert leader is not None
    assert seen["session"] == seen["parent"] == leader.pid
    assert seen["cwd"] == str(folder.path)
    assert seen["temporary"] == str(folder.temporary)
    assert seen["umask"] == 0o077
    assert seen["stdin"] == "/dev/null"
    assert seen["cores"] == list(simulated_launch().cores)
    assert "HF_TOKEN" not in seen["environment"]
    assert process.REPLICA_DIR_VARIABLE in seen["environment"]


async def test_children_do_not_outlive_the_main_process(folder: RunFolder) -> None:
    """Not even one that left the session, the group and its parent."""
    await finished(
        folder,
        """
        import os, time
        if os.fork() == 0:
            time.sleep(600)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
        time.sleep(0.2)
        """,
    )
    assert process.processes_of(folder.path, folder.process()) == []


async def test_sigterm_reaches_the_main_process_and_sigquit_needs_no_consent(
    folder: RunFolder,
) -> None:
    leader = await supervised(
        folder,
        """
        import signal, time
        signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
        print("ready", flush=True)
        while True:
            time.sleep(0.05)
        """,
    )
    await until_logged(folder, "ready")
    assert process.send_signal(leader, signal.SIGTERM)
    await until_logged(folder, "asked to end")
    assert process.is_alive(leader)
    process.send_signal(leader, signal.SIGQUIT)
    await asyncio.wait_for(process.wait_gone(leader), 20)
    assert process.processes_of(folder.path, leader) == []


async def test_a_killed_supervisor_takes_the_main_process_with_it(folder: RunFolder) -> None:
    leader = await supervised(folder, "import time; print('ready', flush=True); time.sleep(600)")
    await until_logged(folder, "ready")
    os.kill(leader.pid, signal.SIGKILL)
    await asyncio.wait_for(process.wait_gone(leader), 20)
    await process.kill_all(folder.path, leader)
    assert process.processes_of(folder.path, leader) == []


async def test_the_supervisor_is_small_and_is_no_child_of_ours(folder: RunFolder) -> None:
    leader = await supervised(folder, "import time; print('ready', flush=True); time.sleep(600)")
    await until_logged(folder, "ready")
    try:
        assert shim.pss_bytes(leader.pid) < 16 * 1024 * 1024
        assert int(shim.stat_fields(leader.pid)[1]) != os.getpid()
    finally:
        process.send_signal(leader, signal.SIGQUIT)
        await asyncio.wait_for(process.wait_gone(leader), 20)


async def test_memory_of_the_tree_is_sampled(folder: RunFolder) -> None:
    leader = await supervised(
        folder, "import time; x = b'1' * 50_000_000; print('ready', flush=True); time.sleep(600)"
    )
    try:
        await until_logged(folder, "ready")
        assert process.pss_bytes(folder.path, leader) > 50_000_000
        for _ in range(200):
            if folder.peak_pss_bytes() > 50_000_000:
                break
            await asyncio.sleep(0.05)
        assert folder.peak_pss_bytes() > 50_000_000
    finally:
        process.send_signal(leader, signal.SIGQUIT)
        await asyncio.wait_for(process.wait_gone(leader), 20)


def test_the_log_is_rotated_and_bounded(tmp_path: Path) -> None:
    log = shim.RotatedLog(str(tmp_path / "engine.log"))
    block = b"x" * (1024 * 1024)
    for number in range(40):
        log.write(b"%02d" % number + block)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["engine.log", "engine.log.1", "engine.log.2"]
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert total <= shim.LOG_FILES * (shim.LOG_BYTES + len(block) + 2)


def test_a_log_that_cannot_be_rotated_is_bounded_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "engine.log.1").mkdir()
    (tmp_path / "engine.log.2").touch()
    log = shim.RotatedLog(str(tmp_path / "engine.log"))
    log.write(b"x" * shim.LOG_BYTES)
    # Whatever is opened next may get the number of a closed log: it must not be written to.
    with (tmp_path / "innocent").open("wb"):
        log.write(b"y")
    assert (tmp_path / "innocent").read_bytes() == b""
    assert (tmp_path / "engine.log").read_bytes() == b"y"


async def test_the_engine_ends_when_nobody_holds_its_lifeline(folder: RunFolder) -> None:
    theirs, ours = os.pipe()
    launch = simulated_launch()
    argv = [sys.executable, "-I", "-c", "import time; print('ready', flush=True); time.sleep(600)"]
    folder.prepare(launch, shim_command(argv, {}, launch, folder))
    await spawn_shim(folder, theirs)
    os.close(theirs)
    leader = folder.process()
    assert leader is not None
    await until_logged(folder, "ready")
    assert process.is_alive(leader)
    os.close(ours)
    await asyncio.wait_for(process.wait_gone(leader), 20)
    assert process.processes_of(folder.path, leader) == []


async def test_a_supervisor_that_is_late_does_not_start_the_engine_after_all(
    folder: RunFolder,
) -> None:
    launch = simulated_launch()
    folder.prepare(launch, {})
    command = folder.path / "command.json"
    command.unlink()
    os.mkfifo(command)  # Reading it takes until somebody writes.
    with pytest.raises(StartFailedError, match="did not start in"):
        await spawn_or_undo(folder, seconds=1.0)
    with pytest.raises(OSError, match="No such device"):  # Nobody reads any more.
        os.close(os.open(command, os.O_WRONLY | os.O_NONBLOCK))
    assert process.processes_of(folder.path, folder.process()) == []


def test_the_shim_needs_only_the_standard_library() -> None:
    """It runs with -I -S, without the packages of any environment."""
    source = Path(shim.__file__).read_text()
    imports = [line.split()[1] for line in source.splitlines() if line.startswith("import ")]
    assert set(imports) <= sys.stdlib_module_names
    assert "\nfrom " not in source


async def until_logged(folder: RunFolder, text: str) -> None:
    for _ in range(400):
        if text in shim.read_text(str(folder.log)):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{text!r} never came")
