"""The files of a model get to each host that runs it, whatever breaks on the way."""

import asyncio
import contextlib
import dataclasses
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.errors import HostSilentError, ModelSourceError
from partitiond.core.model.resolved import ResolvedModel
from partitiond.hosts.agents import Agents
from partitiond.hosts.calls.near import RemoteHost
from partitiond.hosts.models import HostsModels
from partitiond.models import copies
from partitiond.models.copies import CopiedFolders
from partitiond.models.prepared import is_complete
from partitiond.ports.model import ModelListing, ReceivedModel
from tests.controller.fakes import FakeRunner
from tests.controller.samples import ARCHITECTURE, spec
from tests.hosts.pipes import HEAD, BadLine, agent
from tests.hosts.virtual_time import run
from tests.machine import until

PIECE = 64
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 3, "empty": b""}


class OwnDisk(CopiedFolders):
    """Folders of a host that does not see the disk of any other host, as tests have one disk."""

    written = 0

    async def receive(self, listing: ModelListing) -> ReceivedModel:
        return await super().receive(dataclasses.replace(listing, folder=self._hidden(listing)))

    async def write(self, listing: ModelListing, name: str, offset: int, data: bytes) -> int:
        listing = dataclasses.replace(listing, folder=self._hidden(listing))
        size = await super().write(listing, name, offset, data)
        self.written += len(data)
        return size

    def _hidden(self, listing: ModelListing) -> str:
        return f"/not-here/{Path(listing.folder).name}"


class Fleet:
    """A head that has a model, and hosts behind pipes, each with a disk of its own."""

    def __init__(self, folder: Path, hosts: int = 1) -> None:
        self.folder = folder
        self.head = agent("head", FakeRunner())
        self.head.folders = CopiedFolders(folder / "head", anywhere=True)
        names = [f"gpu-{number}" for number in range(1, hosts + 1)]
        self.there = [agent(name, FakeRunner()) for name in names]
        self.disks = [OwnDisk(folder / name) for name in names]
        for there, disk in zip(self.there, self.disks, strict=True):
            there.folders = disk
        self.lines = [BadLine(there) for there in self.there]
        lines = zip(names, self.lines, strict=True)
        self.agents = Agents([self.head, *(RemoteHost(n, p, head=HEAD) for n, p in lines)])
        self.models = self.new_models()
        self.model = self.resolved("tiny", FILES)

    def new_models(self) -> HostsModels:
        """What another daemon on the head has."""
        return HostsModels(self.agents, piece_bytes=PIECE, ask_again_seconds=0.001)

    def resolved(self, name: str, files: dict[str, bytes]) -> ResolvedModel:
        folder = self.folder / "head" / name
        folder.mkdir(parents=True)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        return ResolvedModel(spec(name), folder, "v1", ARCHITECTURE, False)

    async def arrives(self, host: str = "gpu-1") -> ResolvedModel:
        """Bring the model, whole."""
        brought = await self.models.bring(self.model, host)
        assert self.has(brought, host)
        return brought

    def has(self, brought: ResolvedModel, host: str = "gpu-1") -> bool:
        """Whether the whole model is on the host."""
        folder = brought.folder
        return (
            folder.is_relative_to(self.folder / host)
            and is_complete(folder)
            and all((folder / name).read_bytes() == data for name, data in FILES.items())
        )


@pytest.fixture
async def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, hosts=2)


async def test_the_own_host_has_the_files_and_another_host_gets_them(fleet: Fleet) -> None:
    assert await fleet.models.bring(fleet.model, "head") is fleet.model
    told: list[tuple[str, float | None]] = []
    brought = await fleet.models.bring(fleet.model, "gpu-1", lambda *said: told.append(said))
    assert fleet.has(brought)
    assert dataclasses.replace(brought, folder=fleet.model.folder) == fleet.model
    assert told[-1] == ("copying files to gpu-1: 770 B of 770 B", 1.0)
    assert await fleet.new_models().bring(fleet.model, "gpu-1") == brought
    assert [disk.written for disk in fleet.disks] == [770, 0]
    with pytest.raises(HostSilentError, match="is not there"):
        await fleet.models.bring(fleet.model, "gpu-9")


async def test_shared_storage_is_used_as_it_is(fleet: Fleet) -> None:
    fleet.there[0].folders = CopiedFolders(fleet.folder / "gpu-1")
    assert await fleet.models.bring(fleet.model, "gpu-1") == fleet.model
    assert not (fleet.folder / "gpu-1" / copies.COPIES).exists()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), cut=st.floats(0, 0.5), restarts=st.booleans())
def test_whatever_is_lost_or_damaged_the_model_arrives_whole(
    seed: int, cut: float, restarts: bool
) -> None:
    run(_arrives_over_a_bad_line(seed, cut, restarts=restarts))


async def _arrives_over_a_bad_line(seed: int, cut: float, *, restarts: bool) -> None:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), hosts=1)
        weights = (cut / 3, cut / 3, cut / 3, 1 - cut)
        fates = ("lost", "unanswered", "damaged", "carried")
        fleet.lines[0].fates = iter(draw.choices(fates, weights, k=400))
        models = fleet.models
        for _ in range(400):
            bringing = asyncio.ensure_future(models.bring(fleet.model, "gpu-1"))
            if draw.random() < cut:  # the control plane ends meanwhile
                for _ in range(draw.randrange(30)):
                    await asyncio.sleep(0)
                bringing.cancel()
            try:
                brought = await bringing
                break
            except (HostSilentError, asyncio.CancelledError):
                if restarts:
                    models = fleet.new_models()
                    fleet.there[0].folders = OwnDisk(Path(folder) / "gpu-1")
        assert fleet.has(brought)
        names = [path.name for path in (Path(folder) / "gpu-1" / copies.COPIES).iterdir()]
        assert names == [brought.folder.name]


async def test_a_file_that_always_arrives_damaged_is_said(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = fleet.head.folders.read

    async def broken(folder: str, name: str, offset: int, size: int) -> bytes:
        data = await read(folder, name, offset, size)
        return data[:-1] + bytes([data[-1] ^ 1]) if name == "model.safetensors" else data

    monkeypatch.setattr(fleet.head.folders, "read", broken)
    with pytest.raises(ModelSourceError, match="wrong checksum 3 times") as refused:
        await fleet.models.bring(fleet.model, "gpu-1")
    assert refused.value.facts == {"host": "gpu-1", "name": "model.safetensors"}
    monkeypatch.undo()
    await fleet.arrives()


async def test_a_full_disk_is_the_problem_of_its_host_alone(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, write = fleet.disks[0], fleet.disks[0].write

    async def refuses(listing: ModelListing, name: str, offset: int, data: bytes) -> int:
        if offset >= 5 * PIECE:
            raise ModelSourceError("the disk is full.", hint="Free disk space below /x.")
        return await write(listing, name, offset, data)

    monkeypatch.setattr(full, "write", refuses)
    failed, _ = await asyncio.gather(
        fleet.models.bring(fleet.model, "gpu-1"), fleet.arrives("gpu-2"), return_exceptions=True
    )
    assert isinstance(failed, ModelSourceError)
    assert failed.message == "on gpu-1: the disk is full."
    assert fleet.disks[1].written == 770
    monkeypatch.undo()
    await fleet.arrives()
    assert full.written == 770


async def test_a_host_gets_two_models_at_once_and_each_file_once(fleet: Fleet) -> None:
    other = fleet.resolved("other", {"config.json": b"[]"})
    found = await asyncio.gather(
        *(
            fleet.models.bring(model, host)
            for model in (fleet.model, other, fleet.model)
            for host in ("gpu-1", "gpu-2")
        )
    )
    assert len({model.folder for model in found}) == 4
    assert [disk.written for disk in fleet.disks] == [772, 772]


async def test_a_copy_that_is_given_up_leaves_no_task(fleet: Fleet) -> None:
    bringing = asyncio.ensure_future(fleet.models.bring(fleet.model, "gpu-1"))
    await until(lambda: fleet.disks[0].written > 0)
    bringing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await bringing
    assert not [t for t in asyncio.all_tasks() if "HostsModels" in repr(t.get_coro())]
    await fleet.arrives()
