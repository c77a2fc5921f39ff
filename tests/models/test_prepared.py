"""A prepared folder is complete or absent."""

import asyncio
from pathlib import Path

import pytest

from partitiond.core.errors import ModelSourceError
from partitiond.models.prepared import is_complete, prepare, revision_of


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


async def test_what_a_killed_maker_left_is_removed(tmp_path: Path) -> None:
    stale = tmp_path / ".m.partial-dead"
    stale.mkdir()
    (stale / "weights").write_text("half")
    await prepare(tmp_path / "m", None, Maker())
    assert not stale.exists()


@pytest.mark.parametrize("damage", ["truncate", "remove", "marker"])
async def test_a_damaged_folder_is_made_again(tmp_path: Path, damage: str) -> None:
    make, target = Maker(), tmp_path / "m"
    await prepare(target, None, make)
    match damage:
        case "truncate":
            (target / "weights").write_text("half")
        case "remove":
            (target / "weights").unlink()
        case _:
            (target / ".partitiond-complete.json").write_text("{")
    assert not is_complete(target)
    await prepare(target, None, make)
    assert make.calls == 2
    assert is_complete(target)


async def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    make, target = Maker(), tmp_path / "m"
    await asyncio.gather(*(prepare(target, None, make) for _ in range(3)))
    assert make.calls == 1


async def test_a_folder_that_cannot_be_made_is_a_model_source_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelSourceError, match="cannot be made") as caught:
        await prepare(tmp_path / "file" / "m", None, Maker())
    assert caught.value.hint
