"""The daemon of one GPU keeps its record in a folder of its own."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import DeviceError
from partitiond.devices.mps import record
from partitiond.platform.process_identity import ProcessId

GPU = "GPU-3c5a1b2d-0000-0000-0000-000000000001"
TWIN = "GPU-3c5a1b2d-0000-0000-0000-000000000002"


def test_it_is_named_after_the_gpu_as_operators_know_it(tmp_path: Path) -> None:
    assert record.folder_of(tmp_path, GPU) == tmp_path / "mps" / "3c5a1b2d"


def test_two_gpus_never_share_a_folder(tmp_path: Path) -> None:
    folder = record.folder_of(tmp_path, GPU)
    record.make(folder)
    record.write(folder, record.MpsRecord(GPU, None))
    assert record.folder_of(tmp_path, GPU) == folder
    assert record.folder_of(tmp_path, TWIN) != folder


@given(st.text(min_size=1, max_size=60))
def test_any_name_makes_a_folder_below_the_run_folder(uuid: str) -> None:
    folder = record.folder_of(Path("/r"), uuid)
    assert folder.parent == Path("/r/mps")
    assert len(folder.name) == 8


def test_a_run_folder_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="too long") as raised:
        record.folder_of(tmp_path / ("x" * 100), GPU)
    assert "run_dir" in raised.value.hint


def test_a_record_is_read_back(tmp_path: Path) -> None:
    for written in (record.MpsRecord(GPU, None), record.MpsRecord(GPU, ProcessId(7, 12, "boot"))):
        record.write(tmp_path, written)
        assert record.read(tmp_path) == written


@pytest.mark.parametrize("text", ["", "{", "[]", '{"uuid": 3}', '{"uuid": "x", "process": 4}'])
def test_one_that_is_damaged_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / record.RECORD).write_text(text)
    assert record.read(tmp_path) is None


def test_the_last_daemons_logs_are_kept_once(tmp_path: Path) -> None:
    record.make(tmp_path)
    log = tmp_path / "log" / "server.log"
    log.write_text("first")
    record.make(tmp_path)
    log.write_text("second")
    record.make(tmp_path)
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["server.old"]
    assert (tmp_path / "log" / "server.old").read_text() == "second"
    assert oct((tmp_path / "pipe").stat().st_mode)[-3:] == "700"


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot be written") as raised:
        record.make(tmp_path / "file" / "mps")
    assert "run_dir" in raised.value.hint
