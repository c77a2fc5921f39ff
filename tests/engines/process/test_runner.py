"""The runner handles refusals, leftovers, and late and cancelled starts."""

import asyncio
import dataclasses
import errno
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from partitiond.core import errors
from partitiond.core.errors import (
    DeviceError,
    EngineError,
    EngineUnavailableError,
    SilentError,
    StartFailedError,
)
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.engines.process import commands, shim, spawn
from partitiond.engines.process import signals as process
from partitiond.engines.process.journal import LAST_LOGS, RunFolder, run_folders
from partitiond.engines.process.owners import owners
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.engines.vllm.capabilities import capabilities_of
from partitiond.platform.process_identity import ProcessId, is_alive, own_identity
from tests.controller.samples import placement
from tests.engine_fixtures import short_dir, simulated_launch
from tests.engines.undying import undying_processes
from tests.machine import no_files_left, until

__all__ = ["short_dir"]


@pytest.fixture
def runner(short_dir: Path) -> ProcessEngineRunner:
    return ProcessEngineRunner(short_dir, None)


async def test_a_start_that_takes_too_long_is_told_and_can_be_stopped(
    runner: ProcessEngineRunner,
) -> None:
    handle = await runner.start(simulated_launch("slow-0", "--load-seconds", "60"))
    with pytest.raises(errors.StartTimedOutError, match="slow-0 was not ready"):
        await runner.wait_ready(handle, 0.3)
    await runner.stop(handle, 0.0)
    assert list(await runner.find()) == []


async def test_a_failed_start_carries_the_engines_own_words(runner: ProcessEngineRunner) -> None:
    says = "torch.OutOfMemoryError: CUDA out of memory"
    handle = await runner.start(simulated_launch("sim-0", "--fail-start", says))
    with pytest.raises(StartFailedError, match="not enough device memory") as caught:
        await runner.wait_ready(handle, 60)
    assert caught.value.facts["kind"] == "gpu-out-of-memory"
    assert "CUDA out of memory" in caught.value.message.splitlines()[-1]
    assert "CUDA out of memory" in str(caught.value.facts["lines"])
    assert caught.value.facts["code"] == 1
    assert caught.value.hint


async def test_a_stopped_engine_can_be_started_again_and_its_old_handle_does_not_touch_it(
    runner: ProcessEngineRunner, short_dir: Path
) -> None:
    """Finding does not disturb an engine that is being started; a crash is seen by its signal."""
    name = "a-model-with-a-name-of-sixty-three-letters-as-long-as-it-gets-0-12"
    launch = simulated_launch(name, "--crash-after-requests", "2")
    starting = asyncio.create_task(runner.start(launch))
    while not starting.done():
        await runner.find()
        await asyncio.sleep(0)
    old = await starting
    await runner.stop(old, 5)
    new = await runner.start(launch)
    assert (short_dir / LAST_LOGS / f"{Path(old.run_dir).name}.log").exists()
    assert new.generation != old.generation
    await runner.wait_ready(new, 60)
    ended = await runner.stop(old, 5)
    assert "replaced" in ended.diagnosis
    assert await runner.probe(new, 5)
    assert [found.launch.replica_id for found in await runner.find()] == [name]
    assert not await runner.probe(new, 5)
    ended = await asyncio.wait_for(runner.wait_exit(new), 60)
    assert ended.code == -9
    assert "signal 9" in ended.diagnosis


async def test_an_environment_is_looked_for_at_each_start_and_what_cannot_start_is_refused(
    short_dir: Path,
) -> None:
    asked = 0

    def look() -> EngineEnvironment:
        nonlocal asked
        asked += 1
        return EngineEnvironment(Path("/usr/bin/false"), "0.99.0", "cpu")

    vllm = dataclasses.replace(simulated_launch(), engine_kind="vllm", extra_args=())
    runner = ProcessEngineRunner(short_dir, look)
    for number in (1, 2):
        with pytest.raises(EngineUnavailableError, match=r"0\.99\.0 is not known"):
            await runner.start(vllm)
        assert asked == number
    runner = ProcessEngineRunner(short_dir, None)
    with pytest.raises(EngineUnavailableError, match="no vLLM environment"):
        await runner.start(vllm)
    deep = ProcessEngineRunner(short_dir / ("x" * 90), None)
    with pytest.raises(StartFailedError, match="socket path") as caught:
        await deep.start(simulated_launch())
    assert "run_dir" in caught.value.hint
    # A daemon that died between writing the launch and starting it leaves a folder to be cleared.
    folder = RunFolder.of(short_dir, "sim-0")
    folder.prepare(simulated_launch(), {"argv": []})
    assert list(await runner.find()) == []
    assert not folder.path.is_dir()


async def test_a_host_that_can_open_nothing_is_to_blame_for_a_start_that_fails(
    runner: ProcessEngineRunner, short_dir: Path
) -> None:
    with no_files_left(), pytest.raises(DeviceError, match="lacks files that this process"):
        await runner.start(simulated_launch())
    assert list(await runner.find()) == []
    handle = await runner.start(simulated_launch())
    await runner.stop(handle, 5)


@pytest.mark.parametrize(
    ("blamed", "numbers"),
    [
        (DeviceError, "EMFILE ENFILE ENOMEM ENOSPC EDQUOT EAGAIN"),
        (StartFailedError, "EACCES ENOENT ENOTDIR ENAMETOOLONG EROFS"),
    ],
)
async def test_only_what_the_host_lacks_is_blamed_on_the_host(
    runner: ProcessEngineRunner,
    monkeypatch: pytest.MonkeyPatch,
    blamed: type[Exception],
    numbers: str,
) -> None:
    for name in numbers.split():

        async def fails(*_: object, number: int = getattr(errno, name), **_named: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(asyncio, "create_subprocess_exec", fails)
        with pytest.raises(blamed, match="no process for sim-0"):
            await runner.start(simulated_launch())


async def test_a_start_for_which_there_is_no_thread_or_no_further_process_is_tried_again(
    runner: ProcessEngineRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the start finds out: in the daemon, as the shim leaves it, as the engine is made."""
    lacks = pytest.raises(DeviceError, match=r"^this host lacks process or thread ids: no process")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with lacks:
            await runner.start(simulated_launch())
    for forks in (0, 1):
        code = f"""import errno, os, sys
def fork(left=[{forks}], fork=os.fork):
    if not left[0]:
        raise BlockingIOError(errno.EAGAIN, "no process")
    left[0] -= 1
    return fork()
os.fork = fork
sys.argv = sys.argv[2:]
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"))
"""
        words = [sys.executable, "-c", code, "-", shim.__file__]
        monkeypatch.setattr(spawn, "shim_command", lambda folder, w=words: [*w, str(folder.path)])
        with lacks:
            await runner.start(simulated_launch())
    assert list(await runner.find()) == []


def no_thread(_: object) -> None:
    """As if there were no further thread."""
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_start_without_a_record_or_that_is_cancelled_leaves_no_engine(
    runner: ProcessEngineRunner, short_dir: Path, cancelled: bool
) -> None:
    folder = RunFolder.of(short_dir, "sim-0")
    starting = asyncio.create_task(runner.start(simulated_launch()))
    while not (folder.path / "command.json").exists():  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(0)
    if cancelled:
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    else:
        (folder.path / "launch.json").write_text("{")
        with pytest.raises(StartFailedError, match="left no record"):
            await starting
    assert process.processes_of(folder.path, folder.leader()) == []
    await runner.stop(await runner.start(simulated_launch()), 0)


class Counting(ProcessEngineRunner):
    """Tells how often it tried to kill all processes of an engine."""

    kills = 0

    async def _kill_all(self, *args: Any) -> tuple[int, ...]:
        self.kills += 1
        return await super()._kill_all(*args)


async def test_a_stop_that_leaves_processes_alive_says_so_until_they_are_gone(
    short_dir: Path,
) -> None:
    runner = Counting(short_dir, None, reap_seconds=0.2)
    handle = await runner.start(simulated_launch())
    with undying_processes(Path(handle.run_dir)):
        for _ in range(2):
            with pytest.raises(EngineError, match="still alive") as caught:
                await runner.stop(handle, 0)
            assert caught.value.facts["pids"]
            assert caught.value.hint
        with pytest.raises(EngineError, match="still alive"):
            await runner.start(simulated_launch())
        waiting = asyncio.create_task(runner.wait_exit(handle))
        tried = runner.kills
        await until(lambda: runner.kills > tried + 1 or waiting.done())
        assert not waiting.done()
    await runner.stop(handle, 0)
    await asyncio.wait_for(waiting, 60)


STARTER = """
import asyncio, dataclasses, sys, threading
from pathlib import Path
from partitiond.engines.process.owners import owners
from partitiond.engines.process.runner import ProcessEngineRunner
from tests.engine_fixtures import simulated_launch

async def start():
    runner = ProcessEngineRunner(Path(sys.argv[1]), None)
    handle = await runner.start(simulated_launch())
    await runner.wait_ready(handle, 60)

# The thread that starts the engine ends before its process does.
thread = threading.Thread(target=lambda: asyncio.run(start()))
thread.start()
thread.join()
print("ready", flush=True)
threading.Event().wait()
"""


async def test_a_killed_profile_takes_its_engine_with_it(short_dir: Path) -> None:
    """A real SIGKILL, with no daemon to clear up."""
    root = Path(__file__).parents[3]
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTER, str(short_dir), cwd=root, stdout=asyncio.subprocess.PIPE
    )
    assert starter.stdout is not None
    assert await asyncio.wait_for(starter.stdout.readline(), 60) == b"ready\n"
    folder = RunFolder.of(short_dir, "sim-0")
    leader = folder.leader()
    assert leader is not None
    assert is_alive(leader)
    starter.kill()
    await starter.wait()
    await asyncio.wait_for(process.wait_gone(leader), 60)
    assert process.processes_of(folder.path, leader) == []


def placed_handle(run_dir: Path) -> EngineHandle:
    """Of a placed engine whose process is this very one."""
    folder = RunFolder.of(run_dir, "sim-0")
    folder.prepare(dataclasses.replace(simulated_launch(), placement=placement("sim-0")), {})
    shim.write_json(str(folder.path / "process.json"), dataclasses.asdict(own_identity()))
    handle = folder.handle()
    assert handle is not None
    return handle


def test_the_peak_of_a_placed_engine_is_what_its_supervisor_sampled(
    runner: ProcessEngineRunner, short_dir: Path
) -> None:
    """It is asked on the daemon's loop, which must not look through /proc: that may hang."""
    handle = placed_handle(short_dir)
    assert runner.peak_memory_bytes(handle) == 0
    shim.write_json(str(Path(handle.run_dir) / "memory.json"), {"peak_pss_bytes": 5})
    assert runner.peak_memory_bytes(handle) == 5


def cannot_open(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    read = Path.read_bytes

    def reads(asked: Path) -> bytes:
        if asked == path:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read(asked)

    monkeypatch.setattr(Path, "read_bytes", reads)


@pytest.mark.parametrize("name", ["launch.json", "process.json"])
async def test_an_engine_is_neither_unread_nor_left_out_for_want_of_files(
    runner: ProcessEngineRunner, short_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One that is left out would have its devices taken for free, and a look that goes on would
    clear what is started meanwhile."""
    handle = placed_handle(short_dir)
    RunFolder.of(short_dir, "left-0").prepare(simulated_launch("left-0"), {})
    with monkeypatch.context() as short:
        cannot_open(short, Path(handle.run_dir) / name)
        with pytest.raises(SilentError, match="Too many open files"):
            await runner.find()
        assert asyncio.all_tasks() == {asyncio.current_task()}
    assert list(await runner.find()) == [handle]


@pytest.mark.parametrize("name", ["stat", "environ"])
def test_who_can_open_nothing_does_not_say_that_a_process_is_no_engine_s(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    placed_handle(short_dir)
    cannot_open(monkeypatch, Path(f"/proc/{os.getpid()}/{name}"))
    with pytest.raises(OSError, match="Too many open files"):
        owners(short_dir)


async def test_what_is_left_of_one_engine_and_cannot_be_cleared_hides_no_other(
    runner: ProcessEngineRunner, short_dir: Path
) -> None:
    left = RunFolder.of(short_dir, "left-0")
    left.prepare(simulated_launch("left-0"), {})
    left.log.touch()
    (short_dir / LAST_LOGS).touch()  # where a folder should be
    handle = placed_handle(short_dir)
    assert list(await runner.find()) == [handle]
    assert left.path.exists()


async def test_an_engine_is_found_by_its_record_while_proc_hangs(
    runner: ProcessEngineRunner, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would supervise it, nor start another in its place. What has no record is left, and
    a copy is not taken for what it was copied from.
    """
    handle = placed_handle(short_dir)
    shutil.copytree(handle.run_dir, short_dir / "copied-0")
    left = RunFolder.of(short_dir, "left-0")
    left.prepare(simulated_launch("left-0"), {})
    answers, read = threading.Event(), Path.read_bytes

    def waited(path: Path) -> bool:
        return path.name != "environ" or answers.wait()

    monkeypatch.setattr("partitiond.engines.process.runner.FIND_SECONDS", 0.05)
    with monkeypatch.context() as hanging:
        hanging.setattr(Path, "read_bytes", lambda path: read(path) if waited(path) else b"")
        assert list(await runner.find()) == [handle]
        assert left.path.exists(), "it is not known whether something of it lives"
        answers.set()


async def test_an_engine_that_starts_during_a_search_keeps_its_run_folder(
    runner: ProcessEngineRunner, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search clears what an earlier engine of its name has left."""
    left = RunFolder.of(short_dir, "sim-0")
    left.prepare(simulated_launch(), {})
    clears, may_clear = asyncio.Event(), asyncio.Event()
    kill_all = runner._kill_all

    async def slowly(*args: Any) -> tuple[int, ...]:
        clears.set()
        await may_clear.wait()
        return await kill_all(*args)

    monkeypatch.setattr(runner, "_kill_all", slowly)
    search = asyncio.ensure_future(runner.find())
    await clears.wait()
    monkeypatch.setattr(runner, "_kill_all", kill_all)
    prepare = RunFolder.prepare

    def prepared(folder: RunFolder, launch: EngineLaunch, command: dict[str, Any]) -> None:
        assert search.done()
        prepare(folder, launch, command)

    monkeypatch.setattr(RunFolder, "prepare", prepared)
    start = asyncio.ensure_future(runner.start(simulated_launch()))
    may_clear.set()
    assert list(await search) == []
    handle = await start
    assert list(await runner.find()) == [handle]
    await runner.stop(handle, 5.0)


def rewrite(handle: EngineHandle, **changed: object) -> None:
    """Write launch.json as another release would have; a field of None is left out."""
    path = Path(handle.run_dir) / "launch.json"
    body = json.loads(path.read_text()) | changed
    dropped = {name for name, value in changed.items() if value is None}
    shim.write_json(str(path), {name: value for name, value in body.items() if name not in dropped})


async def test_an_engine_whose_launch_cannot_be_read_is_found_and_left_alone(
    runner: ProcessEngineRunner, short_dir: Path
) -> None:
    """Also one that may be a profile's: who started it cannot be read either."""
    name = "a-model-with-quite-a-long-name-0"
    launch = dataclasses.replace(simulated_launch(name), placement=placement(name))
    handle = await runner.start(launch)
    rewrite(handle, body_version=7, colour="red")
    assert list(await runner.find()) == [handle], "one of a later release is found as any other"
    text = (Path(handle.run_dir) / "launch.json").read_text()
    process_file = Path(handle.run_dir) / "process.json"
    sound = process_file.read_text()
    for content in ("", "{", "[]", '{"leader": 1}'):
        process_file.write_text(content)
        assert list(await runner.find()) == [handle], "its supervisor is found by its mark"
        with pytest.raises(StartFailedError, match="runs already"):
            await runner.start(launch)
        (Path(handle.run_dir) / "launch.json").write_text(content)
        (found,) = await runner.find()
        assert found.unread
        assert found.generation == handle.generation
        (Path(handle.run_dir) / "launch.json").write_text(text)
    (Path(handle.run_dir) / "launch.json").unlink()
    (found,) = await runner.find()
    assert "launch.json cannot be read" in found.unread
    (Path(handle.run_dir) / "launch.json").write_text(text)
    process_file.unlink()
    with pytest.raises(StartFailedError, match="runs already"):
        await runner.start(launch)
    process_file.write_text(sound)
    rewrite(handle, max_num_seqs=None, placement=None)
    for _ in range(2):
        (found,) = await runner.find()
        assert is_alive(found)
    assert "max_num_seqs" in found.unread
    assert found.named
    assert found.generation == handle.generation
    assert found.socket_path == handle.socket_path
    assert (found.launch.replica_id, found.launch.model_name) == (name, "tiny")
    assert (found.launch.device_id, found.launch.memory_bytes) == ("cpu", launch.memory_bytes)
    assert owners(short_dir) == {}  # what it holds is foreign memory
    # A name that only a shortened folder tells is not the engine's.
    rewrite(handle, replica_id=None)
    (found,) = await runner.find()
    assert (found.named, found.launch.replica_id) == (False, Path(handle.run_dir).name)
    await runner.stop(found, 5.0)
    assert not is_alive(found)
    assert list(await runner.find()) == []
    assert run_folders(short_dir) == []
    # Of a dead one nothing is left.
    handle = await runner.start(launch)
    rewrite(handle, dtype=None)
    os.kill(handle.pid, 9)
    await process.wait_gone(ProcessId(handle.pid, handle.start_ticks, handle.boot_id))
    assert list(await runner.find()) == []
    assert run_folders(short_dir) == []


async def test_a_copied_record_ends_and_adopts_nothing_of_the_original(
    runner: ProcessEngineRunner, short_dir: Path
) -> None:
    """As after `cp -r` of an installation; one that was moved keeps its engines."""
    handle = await runner.start(simulated_launch())
    folder = Path(handle.run_dir)
    body = json.loads((folder / "process.json").read_text())
    (short_dir / "cgroup.procs").write_text(f"{os.getpid()}\n")
    copied = short_dir / "copy" / folder.name
    for copy in (copied, folder.with_name("sim-1")):
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.sock"))
        shim.write_json(str(copy / "process.json"), body | {"cgroup": str(short_dir)})
    assert owners(copied.parent) == {}
    other = ProcessEngineRunner(copied.parent, None)
    assert list(await other.find()) == []
    assert list(await runner.find()) == [handle]
    assert not copied.exists()
    shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("*.sock"))
    beside = await other.start(simulated_launch())
    await other.stop(beside, 5.0)
    assert is_alive(handle)
    shutil.move(folder, copied.with_name("moved"))
    (moved,) = await other.find()
    assert moved.generation == handle.generation
    await other.stop(moved, 5.0)
    assert not is_alive(handle)


def test_an_engine_without_flashinfer_is_told_not_to_import_its_sampler(short_dir: Path) -> None:
    launch = dataclasses.replace(simulated_launch(), engine_kind="vllm", extra_args=())
    for there, said in ((True, None), (False, "0")):
        found = EngineEnvironment(Path("/env/bin/python"), "0.32.0", "cpu", there)
        made = commands.vllm_command(
            launch, found, capabilities_of("0.32.0"), short_dir, RunFolder(short_dir / "run")
        )
        assert made["env"].get("VLLM_USE_FLASHINFER_SAMPLER") == said
