"""The daemon of one GPU keeps its record in a folder of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import DeviceError
from partitiond.devices.mps import keeper, record
from partitiond.platform.process_identity import ProcessId

GPU = "GPU-3c5a1b2d-0000-0000-0000-000000000001"
TWIN = "GPU-3c5a1b2d-0000-0000-0000-000000000002"


def test_each_gpu_has_a_folder_named_after_it_as_operators_know_it(tmp_path: Path) -> None:
    folder = record.folder_of(tmp_path, GPU)
    assert folder == tmp_path / "mps" / "3c5a1b2d"
    record.make(folder)
    for written in (record.MpsRecord(GPU, ProcessId(7, 12, "boot")), record.MpsRecord(GPU, None)):
        record.write(folder, written)
        assert record.read(folder) == written
    assert record.folder_of(tmp_path, GPU) == folder
    assert record.folder_of(tmp_path, TWIN) != folder


@given(st.text(min_size=1, max_size=60))
def test_any_name_makes_a_folder_below_the_run_folder(uuid: str) -> None:
    folder = record.folder_of(Path("/r"), uuid)
    assert folder.parent == Path("/r/mps")
    assert len(folder.name) == 8


def test_a_record_that_is_damaged_is_none(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"uuid": 3}', '{"uuid": "x", "process": 4}'):
        (tmp_path / record.RECORD).write_text(text)
        assert record.read(tmp_path) is None, text


def folders_of_another_user(folder: Path) -> None:
    keeper.make_folders(str(folder / "pipe"), str(folder / "log"))


@pytest.mark.parametrize("make", [record.make, folders_of_another_user])
def test_the_last_daemons_logs_are_kept_once_and_its_pipes_are_not(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path)
    for said in ("first", "second"):
        (tmp_path / "log/server.log").write_text(said)
        (tmp_path / "pipe/control").write_text("")
        make(tmp_path)
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["server.old"]
    assert (tmp_path / "log" / "server.old").read_text() == "second"
    assert list((tmp_path / "pipe").iterdir()) == []
    assert (tmp_path / "pipe").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot be written") as raised:
        record.make(tmp_path / "file" / "mps")
    assert "run_dir" in raised.value.hint
    with pytest.raises(DeviceError, match="too long") as raised:
        record.folder_of(tmp_path / ("x" * 100), GPU)
    assert "run_dir" in raised.value.hint
