"""Folders of models are copied a piece at a time, and are whole or not there."""

import asyncio
import contextlib
import hashlib
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from partitiond.core.errors import ModelSourceError
from partitiond.models import checksums, copies
from partitiond.models.copies import CopiedFolders, copy_name, require_name
from partitiond.models.prepared import MARKER, is_complete
from partitiond.ports.model import ModelFile, ModelListing, ReceivedModel

FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 41,
    "empty.txt": b"",
    "sub/vocab.txt": b"a\nb\n",
}


WEIGHTS = "model.safetensors"


def model_folder(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    for name, data in (files or FILES).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


async def listed(folders: CopiedFolders, folder: Path) -> ModelListing:
    while True:
        listing = await folders.listing(str(folder))
        if listing.has_checksums:
            return listing


async def received(folders: CopiedFolders, listing: ModelListing) -> ReceivedModel:
    while True:
        there = await folders.receive(listing)
        if there.checked >= 1:
            return there


async def copied(source: CopiedFolders, target: CopiedFolders, listing: ModelListing) -> Path:
    """In pieces of 1000 bytes."""
    there = await received(target, listing)
    for file in listing.files:
        offset = there.bytes_of.get(file.name)
        while offset is None or offset < file.size_bytes:
            data = b""
            if file.size_bytes:
                data = await source.read(listing.folder, file.name, offset or 0, 1000)
            offset = await target.write(listing, file.name, offset or 0, data)
    return Path((await received(target, listing)).folder)


def elsewhere(listing: ModelListing) -> ModelListing:
    """The listing as of a host whose disk is another one: tests have one disk."""
    return ModelListing(f"/not-here{listing.folder}", listing.files)


class Reads(CopiedFolders):
    """Reads a folder under whatever name it is asked for."""

    def __init__(self, folders: CopiedFolders, folder: str) -> None:
        self._folders, self._folder = folders, folder

    async def read(self, folder: str, name: str, offset: int, size: int) -> bytes:
        return await self._folders.read(self._folder, name, offset, size)


class Two:
    """Two hosts' folders of models; a model lies below the first."""

    def __init__(self, folder: Path) -> None:
        self.model = model_folder(folder / "one" / "package" / "tiny")
        self.source = CopiedFolders(folder / "one")
        self.models_dir = folder / "two"
        self.target = CopiedFolders(self.models_dir)

    async def listing(self) -> ModelListing:
        return await listed(self.source, self.model)

    async def copy(self) -> Path:
        source = Reads(self.source, str(self.model))
        return await copied(source, self.target, elsewhere(await self.listing()))

    async def write(self, offset: int, data: bytes) -> int:
        """Of the file of weights."""
        listing = elsewhere(await self.listing())
        return await self.target.write(listing, WEIGHTS, offset, data)


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


async def test_a_listing_has_all_files_with_their_checksums(two: Two) -> None:
    (two.model / ".hidden").write_text("no")
    listing = await two.listing()
    assert listing.folder == str(two.model)
    assert listing.files == tuple(
        ModelFile(name, len(FILES[name]), hashlib.sha256(FILES[name]).hexdigest())
        for name in ("config.json", "empty.txt", "model.safetensors", "sub/vocab.txt")
    )


async def test_checksums_are_computed_in_the_background_and_kept(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = CopiedFolders(two.model.parents[1], answer_seconds=0.0)
    computes, real = threading.Event(), checksums._sha256

    def sha256(path: Path, computing: checksums._Computing) -> str:
        computes.wait()
        return real(path, computing)

    monkeypatch.setattr(checksums, "_sha256", sha256)
    first = await slow.listing(str(two.model))
    assert not first.has_checksums
    computes.set()
    whole = await listed(slow, two.model)
    kept = json.loads((two.model.parents[1] / copies.CHECKSUMS).read_text())
    assert {row[-1] for row in kept.values()} == {file.sha256 for file in whole.files}
    again = CopiedFolders(two.model.parents[1], answer_seconds=0.0)
    assert await again.listing(str(two.model)) == whole
    (two.model / "config.json").write_bytes(b"[]")
    changed = await listed(again, two.model)
    assert changed.files[0].sha256 == hashlib.sha256(b"[]").hexdigest()


async def test_a_copy_has_the_same_files_is_sealed_and_everybody_may_read_it(two: Two) -> None:
    old = os.umask(0o077)
    try:
        folder = await two.copy()
    finally:
        os.umask(old)
    assert folder.parent == two.models_dir / copies.COPIES
    assert is_complete(folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o644
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name]
    assert await two.copy() == folder


async def test_a_copy_goes_on_in_another_process(two: Two) -> None:
    await two.write(0, FILES[WEIGHTS][:5000])
    two.target = CopiedFolders(two.models_dir)
    there = await received(two.target, elsewhere(await two.listing()))
    assert there.bytes_of == {WEIGHTS: 5000}
    assert is_complete(await two.copy())


async def test_pieces_that_come_twice_too_early_or_damaged_are_not_kept(two: Two) -> None:
    data = FILES[WEIGHTS]
    for offset, piece in ((0, data[:100]), (0, data[:100]), (200, data[200:300])):
        assert await two.write(offset, piece) == 100
    with pytest.raises(ModelSourceError, match="has no"):
        await two.write(100, data)
    assert is_complete(await two.copy())
    two.target = CopiedFolders(two.models_dir / "other")
    await two.write(0, b"x" + data[1:])
    listing = elsewhere(await two.listing())
    there = await received(two.target, listing)
    assert (there.damaged, there.bytes_of) == ((WEIGHTS,), {})
    assert (await received(two.target, listing)).damaged == ()
    assert is_complete(await two.copy())


async def test_the_same_folder_with_the_same_files_alone_is_no_copy(two: Two) -> None:
    listing = await two.listing()
    assert await received(two.target, listing) == ReceivedModel(str(two.model), {})
    assert not (two.models_dir / copies.COPIES).exists()
    (two.model / "config.json").write_bytes(b"[]")  # on this host; of the same size
    there = await received(two.target, listing)
    assert (there.folder, there.bytes_of) == ("", {})


async def test_a_full_disk_is_said_and_what_is_there_stays(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = FILES[WEIGHTS]
    await two.write(0, data[:1000])
    write = os.write

    def full(file: int, rest: bytes) -> int:
        if len(rest) <= 500:
            raise OSError(28, "No space left on device")
        return write(file, bytes(rest[:500]))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(ModelSourceError, match="No space left") as refused:
            await two.write(1000, data[1000:2000])
    assert refused.value.hint.startswith("Free disk space")
    there = await received(two.target, elsewhere(await two.listing()))
    assert there.bytes_of == {WEIGHTS: 1000}
    assert is_complete(await two.copy())
    large = ModelListing("/not-here", (ModelFile(WEIGHTS, 2**60, "0" * 64),))
    with pytest.raises(ModelSourceError, match="No space left"):
        await two.target.receive(large)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/etc/passwd", "../x", "a/../../x", "a//b", ".hidden", "a/.b", "a\0b"]
)
async def test_names_that_leave_the_folder_are_refused(two: Two, name: str) -> None:
    listing = ModelListing("/not-here", (ModelFile(name, 1, "0" * 64),))
    for ask in (
        lambda: two.target.receive(listing),
        lambda: two.target.write(listing, name, 0, b"x"),
        lambda: two.source.read(str(two.model), name, 0, 1),
    ):
        with pytest.raises(ModelSourceError, match="is no name"):
            await ask()
    for plain in ("config.json", "sub/vocab.txt", "a..b"):
        require_name(plain)


async def test_only_files_of_models_are_given_away(two: Two, tmp_path: Path) -> None:
    secret = model_folder(tmp_path / "secret", {"token": b"hf_x"})
    (two.model / "link").symlink_to(secret / "token")
    (two.model / "folder").symlink_to(secret)
    above = str(two.model / ".." / ".." / ".." / "secret")
    for folder in (str(secret), above, str(two.model)):
        with pytest.raises(ModelSourceError, match="is no file of a model"):
            await two.source.listing(folder)
    for holder, name in ((secret, "token"), (two.model, "link"), (two.model, "folder/token")):
        with pytest.raises(ModelSourceError, match="is no file of a model"):
            await two.source.read(str(holder), name, 0, 10)
    head = CopiedFolders(tmp_path / "one", anywhere=True)
    assert [file.name for file in (await listed(head, secret)).files] == ["token"]
    assert await head.read(str(secret), "token", 0, 10) == b"hf_x"


async def test_nothing_is_written_through_a_link_and_what_is_gone_or_empty_is_said(
    two: Two, tmp_path: Path
) -> None:
    listing = elsewhere(await two.listing())
    partial = two.models_dir / copies.COPIES / f".{copy_name(listing)}.partial"
    partial.mkdir(parents=True)
    (partial / "config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelSourceError):
        await two.target.write(listing, "config.json", 0, b"{}")
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(ModelSourceError, match="cannot be read"):
        await two.source.listing(str(two.model / "gone"))
    (two.model / "bare").mkdir()
    with pytest.raises(ModelSourceError, match="no files"):
        await two.source.listing(str(two.model / "bare"))
    with pytest.raises(ModelSourceError, match="cannot be read"):
        await two.source.read(str(two.model), "gone", 0, 10)


async def test_a_piece_is_whole_though_its_call_is_cancelled(two: Two) -> None:
    listing, data = elsewhere(await two.listing()), FILES[WEIGHTS]
    writing = asyncio.ensure_future(two.target.write(listing, WEIGHTS, 0, data))
    await asyncio.sleep(0)
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writing
    assert is_complete(await two.copy())


def test_another_file_gives_another_folder() -> None:
    one = ModelListing("/m/tiny", (ModelFile("a", 1, "1" * 64),))
    assert copy_name(one) == copy_name(ModelListing("/other/tiny", one.files))
    assert copy_name(one) != copy_name(ModelListing("/m/tiny", (ModelFile("a", 1, "2" * 64),)))
    assert copy_name(one) != copy_name(ModelListing("/m/tiny", (ModelFile("b", 1, "1" * 64),)))
    assert MARKER not in {file.name for file in one.files}
