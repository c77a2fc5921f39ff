"""A keeper starts Ray again whenever it ended, and ends what a former one has left."""

import dataclasses
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.cluster.keeper import end_left_over, ensure_keeper, keeper_of, stop_keeper
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
