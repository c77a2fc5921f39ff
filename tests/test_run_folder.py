"""A run folder belongs to one state folder: no other daemon adopts or ends what runs there."""

import asyncio
import contextlib
import dataclasses
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partitiond import serde
from partitiond.core.errors import FencedError
from partitiond.core.replica.engine import EngineHandle
from partitiond.devices.mps import record
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.hosts.calls.fencing import NO_HEAD, HeadSession
from partitiond.platform.process_identity import ProcessId, boot_id, is_alive, start_ticks
from partitiond.proxy.process import CONTROL_SOCKET, LOCK_FILE, PID_FILE, own_identity
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


@contextlib.contextmanager
def left_engine(settings: Settings, *claims: HeadSession) -> Iterator[EngineHandle]:
    """An engine that a daemon on these settings left running; it ends at the end."""
    runner = ProcessEngineRunner(settings.run_dir, None)
    with owned_run_folder(settings) as folder:
        for claim in claims:
            folder.claim(claim)
        handle = asyncio.run(runner.start(simulated_launch()))
    try:
        yield handle
        assert is_alive(handle)
    finally:
        asyncio.run(runner.stop(handle, 0.0))


def refused(settings: Settings, why: str) -> RunFolderBusyError:
    with pytest.raises(RunFolderBusyError, match=why) as no, owned_run_folder(settings):
        pass
    return no.value


def test_a_second_daemon_on_it_is_refused_while_the_first_one_runs(short_dir: Path) -> None:
    one, two = settings_of(short_dir, "one"), settings_of(short_dir, "two")
    with owned_run_folder(one):
        assert "run_dir" in refused(two, f"in use by process.*{short_dir}/one").hint
    assert lock_holder(short_dir / "r" / ".lock") is None
    with owned_run_folder(two):  # nothing was left
        pass


def test_what_a_daemon_left_running_is_only_for_its_own_state_folder(short_dir: Path) -> None:
    one, two = settings_of(short_dir, "one"), settings_of(short_dir, "two")
    owner = short_dir / "r" / ".owner.json"
    with left_engine(one):
        for _ in range(2):
            refused(two, f"has sim-0 running.*{short_dir}/one")
        with owned_run_folder(one):  # refused, the other has not made it its own
            pass
        owner.write_text(owner.read_text().replace("{", '{"colour": "red", ', 1))
        refused(two, "has sim-0 running")  # an owner of another release is read
        shutil.move(short_dir / "one", short_dir / "moved")
        with owned_run_folder(two):  # a state folder that is gone may be taken over from
            pass
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
    (settings.state_dir / "proxy" / PID_FILE).write_text(serde.to_json(identity))


@pytest.mark.parametrize(
    ("leave", "named"),
    [(left_mps_daemon, "the MPS daemon of GPU-12345678-0000"), (left_endpoint, "the endpoint")],
)
def test_an_mps_daemon_or_an_endpoint_counts_as_well(
    short_dir: Path, leave: Callable[[Settings, ProcessId], None], named: str
) -> None:
    one, two = settings_of(short_dir, "one"), settings_of(short_dir, "two")
    lock = one.state_dir / "proxy" / LOCK_FILE
    lock.parent.mkdir(parents=True)
    waits = [sys.executable, "-c", "import time; time.sleep(600)"]
    with lock.open("w") as held, subprocess.Popen(waits, stdin=held) as left:
        with owned_run_folder(one):
            leave(one, ProcessId(left.pid, start_ticks(left.pid) or 0, boot_id()))
        refused(two, f"has {named} running.*{short_dir}/one")
        left.kill()
    with owned_run_folder(two):  # it has ended
        pass


def test_an_endpoint_without_its_record_counts_by_who_listens(short_dir: Path) -> None:
    one, two = settings_of(short_dir, "one"), settings_of(short_dir, "two")
    with owned_run_folder(one):
        pass
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(one.run_dir / CONTROL_SOCKET))
        endpoint.listen()
        refused(two, f"has the endpoint running.*{short_dir}/one")
    with owned_run_folder(two):
        pass


def head(id_: str, epoch: int, start: int = 5) -> HeadSession:
    return HeadSession(id_, epoch, start, f"s{start}")


@pytest.mark.parametrize(
    ("former", "why"),
    [
        (head("x", 1), "of epoch 2; .* epoch 1"),
        (head("y", 2), "of epoch 2; .* epoch 2"),
        (head("x", 2, 4), "a later start of this control plane"),
        (NO_HEAD, "of epoch 2; .* epoch 0"),
    ],
    ids=["former", "equal epoch", "earlier start", "none"],
)
def test_what_a_later_control_plane_left_running_is_not_for_one_that_was_overtaken(
    short_dir: Path, former: HeadSession, why: str
) -> None:
    """The state folder is the same: its store was put back from a backup, or lost."""
    one = settings_of(short_dir, "one")
    with left_engine(one, head("x", 1), head("x", 2)):
        for _ in range(2):
            with owned_run_folder(one) as folder:
                with pytest.raises(FencedError, match=f"sim-0 running .*{why}") as no:
                    folder.claim(former)
                assert "hosts --take-over" in no.value.hint
        for claim in (head("x", 2), head("x", 2, 6), head("y", 3)):
            with owned_run_folder(one) as folder:
                folder.claim(claim)
        with owned_run_folder(one) as folder, pytest.raises(FencedError, match="of epoch 3"):
            folder.claim(head("x", 2, 7))
    with owned_run_folder(one) as folder:  # nothing of the other's runs
        folder.claim(former)


def test_whose_processes_run_is_forgotten_with_the_state_folder_that_they_were_of(
    short_dir: Path,
) -> None:
    one, two = settings_of(short_dir, "one"), settings_of(short_dir, "two")
    with owned_run_folder(one) as folder:
        folder.claim(head("x", 2))
    owner = json.loads((short_dir / "r" / ".owner.json").read_text())
    assert (owner["state_dir"], owner["head"], owner["epoch"]) == (f"{short_dir}/one", "x", 2)
    with owned_run_folder(two):  # an agent, or a profile: nobody's orders are kept here
        pass
    with left_engine(two), owned_run_folder(two) as folder:
        folder.claim(head("z", 1))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "/one"}'])
def test_what_runs_where_the_owner_cannot_be_read_is_nobodys_to_end(
    short_dir: Path, content: str
) -> None:
    one, two = settings_of(short_dir, "one"), settings_of(short_dir, "two")
    owner = short_dir / "r" / ".owner.json"
    with left_engine(one):
        owner.write_text(content)
        for settings in (two, one):
            assert str(owner) in refused(settings, "has sim-0 running, and whose").hint
        assert owner.read_text() == content
        owner.unlink()  # as the hint says
        with owned_run_folder(one):
            pass
        owner.write_text(content)
    with owned_run_folder(two):  # nothing runs
        pass
