"""A run folder belongs to one state folder: nobody else adopts or ends what runs there."""

import asyncio
import shutil
from pathlib import Path

import pytest

from partitiond.engines.runner import ProcessEngineRunner
from partitiond.ports import EngineHandle
from partitiond.process_identity import is_alive
from partitiond.run_folder import RunFolderBusyError, owned_run_folder
from partitiond.settings import Settings, load_settings
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
