"""A prepared folder is complete or absent."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from partitiond.core.errors import ModelSourceError
from partitiond.models import prepared, reading
from partitiond.models.folder import read_config
from partitiond.models.prepared import MARKER, is_complete, prepare, revision_of


class Maker:
    """Writes one file, counts its calls, and can be told to fail."""

    def __init__(self) -> None:
        self.calls = 0
        self.failing = False

    async def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "weights").write_text("half")
        if self.failing:
            raise ModelSourceError("interrupted.")
        await asyncio.sleep(0)
        (folder / "weights").write_text("all of it")


async def test_a_second_preparation_reuses_the_first(tmp_path: Path) -> None:
    make, target = Maker(), tmp_path / "models" / "m"
    for _ in range(2):
        assert await prepare(target, "v1", make) == target
    assert make.calls == 1
    assert revision_of(target) == "v1"


async def test_an_interrupted_preparation_leaves_nothing_and_is_redone(tmp_path: Path) -> None:
    make, target = Maker(), tmp_path / "m"
    make.failing = True
    with pytest.raises(ModelSourceError):
        await prepare(target, None, make)
    assert not target.exists()
    make.failing = False
    await prepare(target, None, make)
    assert (target / "weights").read_text() == "all of it"
    stale = tmp_path / ".killed.partial-dead"
    stale.mkdir()
    (stale / "weights").write_text("half")
    await prepare(tmp_path / "killed", None, Maker())
    assert not stale.exists()


async def test_a_slow_disk_is_waited_for_and_a_cancelled_preparation_stays_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one forces its files to the disk, longer than a look may take, others may look."""
    begun, writes = asyncio.Event(), threading.Event()
    loop, publish = asyncio.get_running_loop(), prepared.publish

    def slowly(partial: Path, folder: Path, revision: str | None) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert writes.wait(30.0)
        publish(partial, folder, revision)

    monkeypatch.setattr(prepared, "publish", slowly)
    make, target = Maker(), tmp_path / "m"
    first = asyncio.create_task(prepare(target, None, make))
    await begun.wait()
    assert await reading.look_at(target, lambda: True, 10.0), "no look waits behind it"
    writes.set()
    assert await first == target
    begun.clear()
    writes.clear()
    cancelled = asyncio.create_task(prepare(tmp_path / "other", None, make))
    await begun.wait()
    cancelled.cancel()
    writes.set()
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_a_damaged_folder_is_made_again(tmp_path: Path) -> None:
    make, target = Maker(), tmp_path / "m"
    weights = target / "weights"
    damages: list[Callable[[], object]] = [
        lambda: weights.write_text("half"),
        weights.unlink,
        lambda: (target / MARKER).write_text("{"),
    ]
    for number, damage in enumerate(damages, 2):
        await prepare(target, None, make)
        damage()
        assert not is_complete(target)
        await prepare(target, None, make)
        assert make.calls == number
        assert is_complete(target)


async def test_a_preparation_is_done_once_and_whole_or_not(tmp_path: Path) -> None:
    make, target = Maker(), tmp_path / "m"
    await asyncio.gather(*(prepare(target, None, make) for _ in range(3)))
    assert make.calls == 1
    (tmp_path / "file").touch()
    with pytest.raises(ModelSourceError, match="cannot be made") as caught:
        await prepare(tmp_path / "file" / "m", None, Maker())
    assert caught.value.hint


def test_a_config_that_is_no_json_object_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="does not exist"):
        read_config(tmp_path / "gone")
    with pytest.raises(ModelSourceError, match=r"holds no config\.json") as caught:
        read_config(tmp_path)
    assert "config.json" in caught.value.hint
    for content in (b"{", b"[]", b"\xff"):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ModelSourceError, match=r"config\.json"):
            read_config(tmp_path)
