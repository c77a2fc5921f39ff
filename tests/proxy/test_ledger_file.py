"""The ledger's file has all of its room before anything writes to the mapped pages."""

import os
from pathlib import Path

import pytest

from partitiond.proxy.dispatch.ledger import SlotLedger
from partitiond.proxy.dispatch.shared import LEDGER_FILE, open_as_parent


def test_a_disk_that_fills_up_later_takes_no_page_from_it(tmp_path: Path) -> None:
    """A hole in a mapped file that finds no room on the disk would be a SIGBUS."""
    found = open_as_parent(tmp_path)
    told = (tmp_path / LEDGER_FILE).stat()
    assert told.st_size == SlotLedger.size_bytes()
    assert told.st_blocks * 512 >= told.st_size
    assert found.ledger.is_valid()


def test_a_ledger_with_holes_of_before_is_filled(tmp_path: Path) -> None:
    path = tmp_path / LEDGER_FILE
    path.touch(mode=0o600)
    os.truncate(path, SlotLedger.size_bytes())
    open_as_parent(tmp_path)
    assert path.stat().st_blocks * 512 >= SlotLedger.size_bytes()


def test_a_full_disk_is_an_error_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space"):
            open_as_parent(tmp_path)
    assert open_as_parent(tmp_path).ledger.is_valid(), "once there is room it starts"
