"""A keeper starts Ray again whenever it ended, and ends what a former one has left."""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.cluster import keeper
from partitiond.cluster.keeper import FIRST_RAYLET_SECONDS, ProcessWatch, end_left_over
from partitiond.cluster.ray_node import FOLDER_VARIABLE, RayNode
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.serde import to_stored_json
from tests.cluster.ray_fixtures import (
    another,
    gone,
    make_hosts,
    says,
    short_folder,
    start_keeper,
)
from tests.machine import no_files_left, wait_for

RAY = """#!/bin/sh
echo began >> {folder}/began
[ -e {folder}/joined ] && exec sleep infinity
touch {folder}/joined
exit 7
"""
"""In the place of an interpreter with Ray, whose first start fails."""


@pytest.fixture
def node() -> Iterator[RayNode]:
    with short_folder() as folder:
        python = folder / "python"
        python.write_text(RAY.format(folder=folder))
        python.chmod(0o700)
        (made,) = make_hosts(python, folder, ("head",)).nodes
        yield made


async def test_a_ray_that_ended_is_started_again_by_the_only_keeper(node: RayNode) -> None:
    """Which ends what was left here."""
    environment = {FOLDER_VARIABLE: str(node.folder)}
    with subprocess.Popen(["sleep", "600"], env=environment) as left:  # noqa: ASYNC220 -- a fork
        keeps = start_keeper(node)
        assert left.wait(60) == -signal.SIGTERM
    await says(node.folder / "keeper.log", "Ray ended (exit status 7); started again in 1 s")
    began = node.folder.parent / "began"
    await says(began, "began\nbegan\n")
    assert start_keeper(node).wait(60) == 1
    await says(node.folder / "keeper.log", "Ray is kept on")
    keeps.terminate()
    assert keeps.wait(60) == 0
    assert began.read_text() == "began\n" * 2


async def test_ray_ends_with_the_daemon_that_started_its_keeper(node: RayNode) -> None:
    source = (
        "import subprocess, sys, time; from partitiond.cluster.keeper import *; "
        "subprocess.Popen(keeper_command(from_stored_json(RayNode, sys.argv[1]))); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", source, to_stored_json(node)]) as daemon:  # noqa: ASYNC220
        await says(node.folder.parent / "began", "began\nbegan\n")
        await another(node, "sleep infinity", [])
        daemon.kill()
    await gone(node)


WAITS_ON = """#!/bin/sh
echo began >> {folder}/began
[ -e {folder}/left ] || {folder}/raylet
touch {folder}/left
exec sleep infinity
"""
"""In the place of Ray: it waits on after its raylet has left."""


async def test_a_ray_whose_raylet_left_is_started_again(node: RayNode) -> None:
    folder = node.folder.parent
    node.python.write_text(WAITS_ON.format(folder=folder))
    raylet, leave = folder / "raylet", folder / "leave"
    os.mkfifo(leave)
    raylet.write_text(f"#!/bin/sh\nread word < {leave}\n")
    raylet.chmod(0o700)
    keeper = start_keeper(node)
    await says(node.folder / "keeper.log", "Ray has a raylet")
    with os.fdopen(os.open(leave, os.O_RDWR | os.O_NONBLOCK), "wb", buffering=0) as line:
        line.write(b"now\n")
        await says(node.folder / "keeper.log", "Ray has no raylet (exit status -15)")
    await says(folder / "began", "began\nbegan\n")
    keeper.terminate()
    assert keeper.wait(60) == 0


def test_who_can_open_nothing_takes_no_raylet_for_gone_and_makes_no_other_identity(
    tmp_path: Path,
) -> None:
    made = keeper._identity(tmp_path)
    with no_files_left():
        assert keeper._processes_of(tmp_path, "raylet") is None
        with pytest.raises(OSError, match="Too many open files"):
            keeper._identity(tmp_path)
    assert keeper._processes_of(tmp_path) == []
    assert keeper._identity(tmp_path) == made


def test_a_look_that_failed_is_no_raylet_that_left_and_nothing_that_was_asked_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    looks: list[list[int] | None] = [[1], None, [1], None, []]
    monkeypatch.setattr(keeper, "_processes_of", lambda *_: looks.pop(0))
    for name in ("LOOK_SECONDS", "POLL_SECONDS"):
        monkeypatch.setattr(keeper, name, 0.0)
    with subprocess.Popen(["sleep", "600"]) as ray, contextlib.ExitStack() as last:
        last.callback(ray.kill)
        assert not keeper._ends(ray, tmp_path)
        assert looks == [], "it is gone once a look finds none"
        looks += [None, None, [ray.pid], []]
        end_left_over(tmp_path)
        assert looks == []
        assert ray.wait(60) == -signal.SIGTERM
    assert capfd.readouterr().out == "Ray has a raylet.\n"
    monkeypatch.setattr(keeper, "END_SECONDS", -1.0)
    looks.append(None)
    end_left_over(tmp_path)
    assert "none can look for" in capfd.readouterr().out


def test_a_raylet_is_gone_once_it_was_there_or_had_time_to_come() -> None:
    late = FIRST_RAYLET_SECONDS
    watch = ProcessWatch(10.0)
    assert not watch.is_gone(is_there=False, now=9.0 + late)
    assert watch.is_gone(is_there=False, now=10.0 + late)
    assert not watch.is_gone(is_there=True, now=11.0 + late)
    assert watch.is_gone(is_there=False, now=12.0 + late)
    early = ProcessWatch(10.0)
    assert not early.is_gone(is_there=True, now=11.0)
    assert early.is_gone(is_there=False, now=11.0)


@pytest.mark.parametrize("ends", ["trap '' TERM; sleep infinity & wait", "kill -STOP $$"])
def test_what_is_left_of_a_folder_is_ended_and_nothing_else(tmp_path: Path, ends: str) -> None:
    started = [
        subprocess.Popen(["sh", "-c", f"echo; {ends}"], env={FOLDER_VARIABLE: str(folder)},
                         stdout=subprocess.PIPE, start_new_session=True)
        for folder in (tmp_path / "ours", tmp_path / "ours-too")
    ]  # fmt: skip
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    end_left_over(tmp_path / "ours")
    ours, other = started
    assert ours.wait(60) < 0
    assert other.poll() is None
    end_left_over(tmp_path / "ours-too")
    for process in started:
        process.communicate(timeout=60)


def test_a_proc_that_hangs_says_nothing_and_keeps_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(keeper, "_PROC", DeadlineCalls(0.05))
    monkeypatch.setattr(keeper, "environment", lambda _: answers.wait() and [])
    assert keeper._processes_of(tmp_path) is None
    answers.set()
    wait_for("an answer", lambda: keeper._processes_of(tmp_path) == [])


def test_old_sessions_that_cannot_be_removed_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[RayNode] = []
    for name in ("session_1", "session_2", "session_3"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: (tmp_path / "gone").stat())
    monkeypatch.setattr(keeper, "_run_ray", ran.append)
    (node,) = make_hosts(Path(sys.executable), tmp_path, ("head",)).nodes
    keeper._keep(dataclasses.replace(node, folder=tmp_path))
    assert len(ran) == 1
