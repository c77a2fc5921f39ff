"""Engines are forked from a process that has done their imports, which nothing depends on."""

import asyncio
import dataclasses
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.errors import StartFailedError
from partitiond.core.replica.engine import EngineLaunch
from partitiond.engines.process import shim
from partitiond.engines.process import signals as process
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.engines.process.spawn import spawn_or_undo
from partitiond.engines.process.warm import AGAIN_SECONDS, WarmParent, WarmStarts, warm_key
from partitiond.platform.process_identity import is_alive
from tests.controller.samples import placement
from tests.engine_fixtures import short_dir, simulated_launch, usable_cores
from tests.machine import until

__all__ = ["short_dir"]

MODULES = {"simulated": ("telling",)}
SIGNALS = "{n.name: str(signal.getsignal(n)).split(' at ')[0] for n in signal.Signals}"
HELD = 200_000_000
TELLING = f"""
import atexit, json, os, random, signal, sys, tempfile, time
HELD = __name__ != "__main__" and bytes([1]) * {HELD}
handled = lambda: {SIGNALS}
"""
TELLING += """
ALL = os.sched_getaffinity(0)
if __name__ != "__main__":  # as Intel's OpenMP does
    os.register_at_fork(after_in_child=lambda: os.sched_setaffinity(0, ALL))
else:
    child, told_by_child = os.fork(), "child"
    if child == 0:
        with open(told_by_child, "w") as file:
            json.dump(sorted(os.sched_getaffinity(0)), file)
        os._exit(0)
    os.waitpid(child, 0)
    told = {
        "cores_of_child": json.load(open(told_by_child)),
        "signals": handled(), "words": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd(),
        "cores": sorted(os.sched_getaffinity(0)), "drawn": random.random(),
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
        "imported": "telling" in sys.modules, "temporary": tempfile.gettempdir(),
    }
    atexit.register(print, "ended in order")
    print("begun", flush=True)
    if sys.argv[1] == "fork" and os.fork() == 0:
        time.sleep(600)
    with open("told.new", "w") as file:
        json.dump(told, file)
    os.rename("told.new", "told.json")
    if not sys.argv[1].isdigit():
        time.sleep(600)
    sys.exit(int(sys.argv[1]))
"""


@dataclasses.dataclass
class Bench:
    """Run folders of engines that tell what they were started with."""

    folder: Path
    now: float = 0.0
    number: int = 0

    def __post_init__(self) -> None:
        (self.folder / "telling.py").write_text(TELLING)
        self.starts = WarmStarts(self.folder / ".warm", lambda: self.now, seconds=30.0)

    def launch(self, **changes: Any) -> EngineLaunch:
        self.number += 1
        name = f"e-{self.number}"
        return dataclasses.replace(simulated_launch(name), placement=placement(name), **changes)

    def prepared(self, *words: str, **env: str) -> tuple[RunFolder, EngineLaunch, dict[str, Any]]:
        launch = self.launch()
        folder = RunFolder.of(self.folder, launch.replica_id)
        temporary = {"HOME": str(folder.path), "TMPDIR": str(folder.temporary)}
        command = {
            "argv": [sys.executable, "-m", "telling", *words],
            "env": {"PYTHONPATH": str(self.folder), "PATH": "/bin", **temporary, **env},
            "cores": list(usable_cores(1)),
            "cwd": str(folder.path),
        }
        folder.prepare(launch, command)
        return folder, launch, command

    async def parent(self, launch: EngineLaunch, command: dict[str, Any]) -> WarmParent | None:
        key = warm_key(launch, command, MODULES)
        assert key is not None
        return await self.starts.parent(key)

    async def forked(self, *words: str) -> tuple[RunFolder, WarmParent]:
        folder, launch, command = self.prepared(*words)
        parent = await self.parent(launch, command)
        assert parent is not None
        await parent.fork(folder)
        return folder, parent


@pytest.fixture
def bench(short_dir: Path) -> Iterator[Bench]:
    bench = Bench(short_dir)
    yield bench
    asyncio.run(bench.starts.close())
    for place in short_dir.glob("e-*/process.json"):
        identity = RunFolder(place.parent).leader()
        for pid in process.processes_of(place.parent, identity):
            os.kill(pid, signal.SIGKILL)


async def told(folder: RunFolder) -> dict[str, Any]:
    path = folder.path / "told.json"
    await until(path.exists)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


async def gone(folder: RunFolder) -> None:
    identity = folder.leader()
    assert identity is not None
    await asyncio.wait_for(process.wait_gone(identity), 60)


async def test_an_engine_is_as_if_it_had_imported_by_itself(bench: Bench) -> None:
    """Its environment, words, folder, cores and numbers are its own, and it holds nothing of its
    parent's; its end is recorded by its own shim."""
    folder, parent = await bench.forked("7", "--word")
    found = await told(folder)
    command = json.loads((folder.path / "command.json").read_text())
    assert found["imported"], "nothing was imported before"
    reset = "for n in (1, 3): signal.signal(n, 0)"  # as by nohup the suite may have begun
    words = (sys.executable, "-c", f"import json, signal\n{reset}\nprint(json.dumps({SIGNALS}))")
    alone = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    assert found["signals"] == json.loads((await alone.communicate())[0])
    assert found["words"] == ["7", "--word"]
    assert found["env"] == command["env"]
    assert found["cwd"] == str(folder.path)
    assert found["cores"] == found["cores_of_child"] == command["cores"]
    assert found["temporary"] == str(folder.temporary)
    assert found["descriptors"] == [0, 1, 2]
    await gone(folder)
    ended = folder.exit()
    assert ended is not None
    assert ended.code == 7
    assert folder.log.read_text().split("\n")[:2] == ["begun", "ended in order"]
    other, again = await bench.forked("0")
    assert again is parent
    assert (await told(other))["drawn"] != found["drawn"]
    await gone(other)


async def test_nothing_depends_on_the_parent(bench: Bench) -> None:
    """An engine outlives it, the next start finds another after a while, and imports by itself
    until then."""
    folder, parent = await bench.forked("stay")
    await told(folder)
    identity, child = folder.leader(), parent.process
    assert identity is not None
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    assert is_alive(identity)
    other, launch, command = bench.prepared("0")
    with pytest.raises(StartFailedError):
        await spawn_or_undo(other, begun=parent.fork(other))
    assert process.processes_of(other.path, None) == []
    await bench.starts.failed(parent, StartFailedError("gone."))
    assert await bench.parent(launch, command) is None
    bench.now += AGAIN_SECONDS
    new = await bench.parent(launch, command)
    assert new is not None
    assert new.process != child
    assert is_alive(identity)
    os.kill(identity.pid, signal.SIGKILL)
    await gone(folder)
    await until(lambda: process.processes_of(folder.path, identity) == [])


@pytest.mark.parametrize("end", ["none", "cancelled", "killed"])
async def test_a_hung_parent_starts_nothing_later(bench: Bench, end: str) -> None:
    """It is killed with what it was asked for, also where nobody waits for that any more; and so
    it is if the kernel kills it for memory."""
    seconds = 30.0 if end == "killed" else 0.05
    bench.starts = WarmStarts(bench.folder / ".warm", lambda: bench.now, seconds=seconds)
    folder, launch, command = bench.prepared("stay")
    parent = await bench.parent(launch, command)
    assert parent is not None
    assert parent.process is not None
    os.kill(parent.process.pid, signal.SIGSTOP)
    starting = asyncio.ensure_future(spawn_or_undo(folder, begun=parent.fork(folder)))
    await asyncio.sleep(0)
    if end == "cancelled":
        starting.cancel()
    elif end == "killed":
        os.kill(parent.process.pid, signal.SIGKILL)
    with pytest.raises(asyncio.CancelledError if end == "cancelled" else StartFailedError):
        await starting
    assert not parent.lives
    assert not (folder.path / "process.json").exists()
    await bench.starts.failed(parent, StartFailedError("hung."))
    assert await bench.parent(launch, command) is None


@pytest.mark.parametrize("forged", [b"no JSON", b"[]", b'{"run_dir": "/nowhere"}'])
async def test_what_is_no_start_starts_nothing_and_costs_no_parent(
    bench: Bench, forged: bytes
) -> None:
    folder, launch, command = bench.prepared("7")
    parent = await bench.parent(launch, command)
    assert parent is not None
    for descriptors in ([], [0]):
        socket.send_fds(parent._ours, [forged], descriptors)
    await parent.fork(folder)
    await gone(folder)
    assert getattr(folder.exit(), "code", None) == 7
    assert await bench.parent(launch, command) is parent


async def test_a_start_that_fails_by_itself_costs_no_parent(bench: Bench) -> None:
    folder, launch, command = bench.prepared("stay")
    (folder.path / "command.json").write_text("{}")
    parent = await bench.parent(launch, command)
    assert parent is not None
    with pytest.raises(StartFailedError, match="KeyError") as caught:
        await spawn_or_undo(folder, begun=parent.fork(folder))
    await bench.starts.failed(parent, caught.value)
    assert await bench.parent(launch, command) is parent


async def test_a_parent_whose_imports_fail_is_not_tried_at_each_start(
    bench: Bench, tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nraise SystemExit(1)\n")
    program.chmod(0o700)
    _, launch, command = bench.prepared("0")
    command["argv"][0] = str(program)
    assert await bench.parent(launch, command) is None
    program.write_text("#!/bin/false\n")
    assert await bench.parent(launch, command) is None


async def test_a_parent_serves_engines_of_its_environment_alone(
    bench: Bench, tmp_path: Path
) -> None:
    """Another environment, interpreter or installation has another parent; there is one at most."""
    _, launch, command = bench.prepared("0")
    first = await bench.parent(launch, command)
    assert first is not None
    own = command | {"env": command["env"] | {"OMP_NUM_THREADS": "3", "HOME": "/elsewhere"}}
    assert await bench.parent(launch, own) is first
    other = command | {"env": command["env"] | {"VLLM_LOGGING_LEVEL": "DEBUG"}}
    second = await bench.parent(launch, other)
    assert second is not first
    assert not first.lives
    there = command | {"argv": [str(tmp_path / "bin/python")]}
    assert warm_key(launch, there, MODULES) != warm_key(launch, command, MODULES)


async def test_a_parent_serves_until_what_it_has_imported_changes(
    bench: Bench, tmp_path: Path
) -> None:
    """As by an upgrade, wherever the files lie, or by packages that come."""
    packages = tmp_path / "dist-packages"
    packages.mkdir()
    _, launch, command = bench.prepared("0", PYTHONPATH=f"{bench.folder}:{packages}")
    before = await bench.parent(launch, command)
    changes = (
        lambda: (bench.folder / "telling.py").write_text(TELLING + "#"),
        lambda: os.utime(bench.folder / "telling.py", ns=(1, 1)),
        (packages / "plugin.py").touch,
        (bench.folder / "telling.py").unlink,
    )
    for change in changes:
        assert before is not None
        assert await bench.parent(launch, command) is before
        change()
        after = await bench.parent(launch, command)
        assert after is not before
        assert not before.lives
        before = after


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"visible_device": "GPU-1"}, {}),
        ({"extra_env": (("A", "b"),)}, {}),
        ({"engine_kind": "vllm"}, {}),
        ({}, {"launcher": "/run/partitiond-engine.socket"}),
    ],
    ids=["on a GPU", "its own variables", "a kind that is not forked", "another user's"],
)
def test_engines_that_import_by_themselves(
    bench: Bench, changes: dict[str, Any], more: dict[str, Any]
) -> None:
    launch = bench.launch(**changes)
    command = {"argv": [sys.executable], "env": {}, **more}
    assert warm_key(launch, command, MODULES) is None
    assert warm_key(bench.launch(), {"argv": [sys.executable], "env": {}}, MODULES) is not None


async def test_a_measured_engine_weighs_what_it_would_alone_and_ends_with_who_measures(
    bench: Bench,
) -> None:
    """What it shares is divided among its users only where it is placed: plans rest on what was
    measured, and an engine may have to import by itself."""
    folder, launch, command = bench.prepared("fork")
    parent = await bench.parent(launch, command)
    assert parent is not None
    lifeline, ours = os.pipe()
    await parent.fork(folder, lifeline)
    os.close(lifeline)
    leader = folder.leader()
    assert leader is not None
    await told(folder)
    await until(lambda: folder.peak_pss_bytes() > 1.25 * HELD)  # sampled after it forked
    for weight in (folder.peak_pss_bytes(), process.bytes_alone(folder.path, leader)):
        assert 1.25 * HELD < weight < 1.8 * HELD, "what it forks itself shares with it"
    placed, _ = await bench.forked("stay")
    await until(lambda: placed.peak_pss_bytes() > 0)
    assert placed.peak_pss_bytes() < HELD
    assert is_alive(leader)
    os.close(ours)
    await gone(folder)


async def test_the_runner_forks_what_is_placed_and_what_it_measures(short_dir: Path) -> None:
    modules = {"simulated": ("partitiond.simulated.engine",)}
    runner = ProcessEngineRunner(short_dir, None, warm=modules)
    measured = []
    for name, place in (("measured", None), ("placed", placement("placed"))):
        launch = dataclasses.replace(simulated_launch(name), placement=place)
        handle = await runner.start(launch)
        await runner.wait_ready(handle, 60)
        words = shim.read_text(f"/proc/{handle.pid}/cmdline").split("\0")
        measured.append(words[words.index("--engine") + 5] != "-1")
        await runner.stop(handle, 5)
    assert measured == [True, False]
