"""A keeper starts Ray again whenever it ended, and ends what a former one has left."""

import dataclasses
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.cluster.keeper import (
    FIRST_RAYLET_SECONDS,
    ProcessWatch,
    end_left_over,
    ensure_keeper,
    keeper_of,
    restart_keeper,
    stop_keeper,
)
from partitiond.cluster.ray_node import FOLDER_VARIABLE, RayNode
from tests.cluster.ray_fixtures import make_hosts, says, short_folder

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
        stop_keeper(made.folder)


async def test_a_ray_that_ended_is_started_again_by_the_only_keeper(node: RayNode) -> None:
    # Whoever asks again while the keeper still ends what was left here finds it all the same.
    environment = {FOLDER_VARIABLE: str(node.folder)}
    with subprocess.Popen(["sleep", "600"], env=environment) as left:  # noqa: ASYNC220 -- a fork
        keeper = ensure_keeper(node)
        assert ensure_keeper(node) == keeper == keeper_of(node.folder)
        assert left.wait(60) == -signal.SIGTERM
    await says(node.folder / "keeper.log", "Ray ended (exit status 7); started again in 1 s")
    began = node.folder.parent / "began"
    await says(began, "began\nbegan\n")
    stop_keeper(node.folder)
    assert keeper_of(node.folder) is None
    assert began.read_text() == "began\n" * 2


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
    ensure_keeper(node)
    await says(node.folder / "keeper.log", "Ray has a raylet")
    with os.fdopen(os.open(leave, os.O_RDWR | os.O_NONBLOCK), "wb", buffering=0) as line:
        line.write(b"now\n")
        await says(node.folder / "keeper.log", "Ray has no raylet (exit status -15)")
    await says(folder / "began", "began\nbegan\n")


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


def test_a_keeper_that_a_daemon_started_is_started_again_and_no_other(node: RayNode) -> None:
    restart_keeper(node)
    assert keeper_of(node.folder) is None  # nobody ever started one
    former = ensure_keeper(node)
    restart_keeper(node)
    assert keeper_of(node.folder) == former
    os.kill(former.pid, signal.SIGKILL)
    os.waitid(os.P_PID, former.pid, os.WEXITED | os.WNOWAIT)
    record = node.folder / "keeper.json"
    text = record.read_text()
    record.write_text(text.replace("true", "false"))  # a unit's
    restart_keeper(node)
    assert keeper_of(node.folder) is None
    record.write_text(text)
    restart_keeper(node)
    found = keeper_of(node.folder)
    assert found is not None
    assert (found.spawned, found.pid != former.pid) == (True, True)


async def test_a_keeper_of_other_settings_is_replaced(node: RayNode) -> None:
    former = ensure_keeper(node)
    other = ensure_keeper(dataclasses.replace(node, host="gpu-9"))
    assert other.pid != former.pid


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
