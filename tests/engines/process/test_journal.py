import contextlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.engines.process import journal
from partitiond.engines.process.journal import LAST_LOGS, RunFolder, folder_name, run_folders
from partitiond.engines.process.shim import write_json
from tests.engine_fixtures import simulated_launch


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    prepared = RunFolder.of(tmp_path, "opt-125m-0")
    prepared.prepare(simulated_launch("opt-125m-0"), {"argv": []})
    return prepared


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}-[0-9]{1,3}", fullmatch=True))
def test_folder_names_are_short_readable_and_apart(replica_id: str) -> None:
    names = {folder_name(f"{replica_id}{more}") for more in ("", "0", "1")}
    assert len(names) == 3
    for name in names:
        assert len(name) <= journal.MAX_FOLDER_NAME
        assert name.startswith(replica_id[:15])


def test_before_the_process_is_recorded_there_is_no_handle(folder: RunFolder) -> None:
    assert folder.launch() == simulated_launch("opt-125m-0")
    for private in (folder.path, folder.temporary):
        assert private.stat().st_mode & 0o077 == 0, "nobody else can look in"
    assert folder.handle() is None
    record = {"pid": 12, "start_ticks": 34, "boot_id": "b", "main_pid": 13}
    write_json(str(folder.path / "process.json"), record)
    handle = folder.handle()
    assert handle is not None
    assert handle.generation == "12-34"
    assert handle.socket_path == str(folder.socket)


def test_a_broken_record_is_no_record(folder: RunFolder) -> None:
    for content in ("", "{", "[]", '{"pid": "x"}', '{"pid": 1}'):
        for name in ("process.json", "exit.json", "memory.json", "launch.json"):
            (folder.path / name).write_text(content)
        told = (folder.leader(), folder.exit(), folder.launch(), folder.handle())
        assert told == (None,) * 4, content
        assert folder.peak_pss_bytes() == 0


def test_the_last_log_survives_the_folder(folder: RunFolder, tmp_path: Path) -> None:
    folder.log.write_text("why it died")
    folder.prepare(simulated_launch("opt-125m-0"), {"argv": []})
    assert not folder.log.exists()
    assert (tmp_path / LAST_LOGS / "opt-125m-0.log").read_text() == "why it died"
    # Other things in the run folder are no replicas.
    (tmp_path / "control.sock").touch()
    for other in ("proxy", ".cache"):
        (tmp_path / other).mkdir()
    assert [found.path.name for found in run_folders(tmp_path)] == ["opt-125m-0"]
    assert run_folders(tmp_path / "missing") == []


def test_last_logs_are_bounded_by_number_and_by_size(tmp_path: Path) -> None:
    for number in range(journal.LAST_LOGS_COUNT + 5):
        folder = RunFolder.of(tmp_path, f"profile-{number}")
        folder.path.mkdir()
        folder.log.write_text("words")
        os.utime(folder.log, (number, number))
        folder.clear()
    kept = tmp_path / LAST_LOGS
    assert {log.stem for log in kept.iterdir()} == {
        f"profile-{number}" for number in range(5, journal.LAST_LOGS_COUNT + 5)
    }
    with (kept / "large.log").open("wb") as large:
        large.truncate(journal.LAST_LOGS_BYTES)
    journal.prune_logs(kept)
    assert [log.name for log in kept.iterdir()] == ["large.log"]


def test_a_folder_that_nobody_but_another_user_can_look_into_is_no_replicas(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        run_dir = Path(name)
        run_dir.chmod(0o755)
        for folder, mode in (("a-1", 0o755), ("closed", 0o000)):
            (run_dir / folder).mkdir()
            (run_dir / folder / "launch.json").write_text("{}")
            (run_dir / folder).chmod(mode)
        child = os.fork()
        if child == 0:  # root may look into any folder
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)
            with contextlib.suppress(BaseException):
                os._exit(0 if [f.path.name for f in run_folders(run_dir)] == ["a-1"] else 1)
            os._exit(2)
        told = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        (run_dir / "closed").chmod(0o700)
        assert told == 0
