"""A run folder belongs to one state folder: no other daemon adopts or ends what runs there."""

import asyncio
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from partitiond import serde
from partitiond.core.errors import FencedError
from partitiond.core.replica.engine import EngineHandle
from partitiond.devices.mps import record
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.platform.process_identity import ProcessId, boot_id, is_alive, start_ticks
from partitiond.proxy.process import PID_FILE, own_identity
from partitiond.run_folder import RunFolderBusyError, owned_run_folder
from partitiond.settings.schema import Settings, load_settings
from partitiond.store.lock import lock_holder
from tests.engine_fixtures import short_dir, simulated_launch

__all__ = ["short_dir"]


def settings_of(folder: Path, state: str) -> Settings:
    (folder / state).mkdir(exist_ok=True)
    (folder / "r").mkdir(exist_ok=True)
    values = {"state_dir": str(folder / state), "run_dir": str(folder / "r")}
    return load_settings(overrides=values).settings


def started(folder: Path) -> EngineHandle:
    return asyncio.run(ProcessEngineRunner(folder / "r", None).start(simulated_launch()))


def ended(folder: Path, handle: EngineHandle) -> None:
    asyncio.run(ProcessEngineRunner(folder / "r", None).stop(handle, 0.0))


def test_a_second_daemon_on_it_is_refused_while_the_first_one_runs(short_dir: Path) -> None:
    one, two = settings_of(short_dir, "one"), settings_of(short_dir, "two")
    with owned_run_folder(one):
        with pytest.raises(RunFolderBusyError, match=f"in use by process.*{short_dir}/one") as no:
            with owned_run_folder(two):
                pass
        assert "run_dir" in no.value.hint
    assert lock_holder(short_dir / "r" / ".lock") is None
    with owned_run_folder(two):  # nothing was left
        pass


def test_what_a_daemon_left_running_is_only_for_its_own_state_folder(short_dir: Path) -> None:
    one, two = settings_of(short_dir, "one"), settings_of(short_dir, "two")
    with owned_run_folder(one):
        handle = started(short_dir)
    try:
        for _ in range(2):
            with pytest.raises(RunFolderBusyError, match=f"has sim-0 running.*{short_dir}/one"):
                with owned_run_folder(two):
                    pass
        with owned_run_folder(one):  # refused, the other has not made it its own
            pass
        assert is_alive(handle)
    finally:
        ended(short_dir, handle)
    with owned_run_folder(two):
        pass


def left_mps_daemon(settings: Settings, process: ProcessId) -> None:
    folder = record.folder_of(settings.run_dir, "GPU-12345678-0000")
    record.make(folder)
    record.write(folder, record.MpsRecord("GPU-12345678-0000", process))


def left_endpoint(settings: Settings, process: ProcessId) -> None:
    identity = dataclasses.replace(
        own_identity("127.0.0.1", 8000, settings.state_dir / "control", ""),
        pid=process.pid,
        start_ticks=process.start_ticks,
    )
    folder = settings.state_dir / "proxy"
    folder.mkdir()
    (folder / PID_FILE).write_text(serde.to_json(identity))


@pytest.mark.parametrize(
    ("leave", "named"),
    [(left_mps_daemon, "the MPS daemon of GPU-12345678-0000"), (left_endpoint, "the endpoint")],
)
def test_an_mps_daemon_or_an_endpoint_counts_as_well(
    short_dir: Path, leave: Callable[[Settings, ProcessId], None], named: str
) -> None:
    one, two = settings_of(short_dir, "one"), settings_of(short_dir, "two")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as left:
        with owned_run_folder(one):
            leave(one, ProcessId(left.pid, start_ticks(left.pid) or 0, boot_id()))
        with pytest.raises(RunFolderBusyError, match=f"has {named} running.*{short_dir}/one"):
            with owned_run_folder(two):
                pass
        left.kill()
    with owned_run_folder(two):  # it has ended
        pass


def test_what_runs_of_a_state_folder_that_is_gone_may_be_taken_over(short_dir: Path) -> None:
    one, two = settings_of(short_dir, "one"), settings_of(short_dir, "two")
    with owned_run_folder(one):
        handle = started(short_dir)
    try:
        shutil.move(short_dir / "one", short_dir / "moved")
        with owned_run_folder(two):
            assert is_alive(handle)
    finally:
        ended(short_dir, handle)


def test_an_owner_of_another_release_is_read(short_dir: Path) -> None:
    one, two = settings_of(short_dir, "one"), settings_of(short_dir, "two")
    with owned_run_folder(one):
        handle = started(short_dir)
    try:
        owner = short_dir / "r" / ".owner.json"
        owner.write_text(owner.read_text().replace("{", '{"colour": "red", ', 1))
        with pytest.raises(RunFolderBusyError), owned_run_folder(two):
            pass
    finally:
        ended(short_dir, handle)


@pytest.mark.parametrize(
    ("head", "epoch"), [("x", 1), ("y", 2), ("", 0)], ids=["former", "equal epoch", "none"]
)
def test_what_a_later_control_plane_left_running_is_not_for_one_that_was_overtaken(
    short_dir: Path, head: str, epoch: int
) -> None:
    """The state folder is the same: its store was put back from a backup, or lost."""
    one = settings_of(short_dir, "one")
    with owned_run_folder(one) as folder:
        folder.claim("x", 1)
        folder.claim("x", 2)
        handle = started(short_dir)
    try:
        for _ in range(2):
            with owned_run_folder(one) as folder:
                why = f"sim-0 running .* of epoch 2; .* epoch {epoch}"
                with pytest.raises(FencedError, match=why) as no:
                    folder.claim(head, epoch)
                assert "head take-over" in no.value.hint
        assert is_alive(handle)
        with owned_run_folder(one) as folder:
            folder.claim("x", 2)
        with owned_run_folder(one) as folder:
            folder.claim("y", 3)
        with owned_run_folder(one) as folder, pytest.raises(FencedError, match="of epoch 3"):
            folder.claim("x", 2)
        assert is_alive(handle)
    finally:
        ended(short_dir, handle)
    with owned_run_folder(one) as folder:  # nothing of the other's runs
        folder.claim(head, epoch)


def test_whose_processes_run_is_forgotten_with_the_state_folder_that_they_were_of(
    short_dir: Path,
) -> None:
    one, two = settings_of(short_dir, "one"), settings_of(short_dir, "two")
    with owned_run_folder(one) as folder:
        folder.claim("x", 2)
    owner = json.loads((short_dir / "r" / ".owner.json").read_text())
    assert (owner["state_dir"], owner["head"], owner["epoch"]) == (f"{short_dir}/one", "x", 2)
    with owned_run_folder(two):  # an agent, or a profile: nobody's orders are kept here
        pass
    with owned_run_folder(two) as folder:
        handle = started(short_dir)
        try:
            folder.claim("z", 1)
        finally:
            ended(short_dir, handle)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "/one"}'])
def test_what_runs_where_the_owner_cannot_be_read_is_nobodys_to_end(
    short_dir: Path, content: str
) -> None:
    one, two = settings_of(short_dir, "one"), settings_of(short_dir, "two")
    with owned_run_folder(one):
        handle = started(short_dir)
    owner = short_dir / "r" / ".owner.json"
    owner.write_text(content)
    try:
        for settings in (two, one):
            with pytest.raises(RunFolderBusyError, match="has sim-0 running, and whose") as no:
                with owned_run_folder(settings):
                    pass
            assert str(owner) in no.value.hint
        assert owner.read_text() == content
        owner.unlink()  # as the hint says
        with owned_run_folder(one):
            assert is_alive(handle)
        owner.write_text(content)
    finally:
        ended(short_dir, handle)
    with owned_run_folder(two):  # nothing runs
        pass
