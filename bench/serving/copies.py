"""Measures how fast a model's files get to another host, in MB/s, beside `cp`.

The agent of the other host is a process of its own behind a Unix socket (`hosts.line`); nothing of
a network or of Ray is in between. Each round copies the same file by `cp` and by pieces of each
size, in turns. The time of a copy includes its checksums; those of the source are known before, as
after the first copy.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

from bench.command import options
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.units import MIB
from partitiond.hosts.agents import Agents
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.fencing import HeadSession
from partitiond.hosts.calls.near import RemoteHost
from partitiond.hosts.line import SocketCarrier, serve_line
from partitiond.hosts.models import HostsModels
from partitiond.models.copies import CopiedFolders
from partitiond.ports.host_agent import HostAgent
from partitiond.ports.model import ModelListing, ReceivedModel

HEAD: Final = HeadSession("bench", 1, 1, "bench")


class _OwnDisk(CopiedFolders):
    """Sees no folder of the source, as if it were on another disk."""

    async def receive(self, listing: ModelListing) -> ReceivedModel:
        return await super().receive(ModelListing("/not-here/model", listing.files))

    async def write(self, listing: ModelListing, name: str, offset: int, data: bytes) -> int:
        return await super().write(
            ModelListing("/not-here/model", listing.files), name, offset, data
        )


class _Agent:
    """What a copy asks of an agent."""

    def __init__(self, name: str, folders: CopiedFolders) -> None:
        self.name = name
        self.folders = folders


def _serve(socket: Path, models_dir: Path) -> None:
    async def run() -> None:
        server = HostServer(cast(HostAgent, _Agent("other", _OwnDisk(models_dir))))
        async with await serve_line(socket, lambda _host, _seconds, body: server.answer(body)):
            await asyncio.Event().wait()

    asyncio.run(run())


@contextlib.contextmanager
def _agent(folder: Path) -> Iterator[Path]:
    socket = folder / "agent.sock"
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(socket, folder / "other")
    )
    process.start()
    try:
        while not socket.exists():
            time.sleep(0.05)
        yield socket
    finally:
        process.terminate()
        process.join()


def _copied(source: Path, target: Path) -> float:
    begin = time.perf_counter()
    subprocess.run(["cp", "-r", source, target], check=True)
    return time.perf_counter() - begin


async def _brought(models: HostsModels, source: Path, size: int) -> float:
    model = ResolvedModel(cast(Any, None), source, None, cast(Any, None), dummy_weights=False)
    begin = time.perf_counter()
    found = await models.bring(model, "other")
    seconds = time.perf_counter() - begin
    assert (found.folder / "model.safetensors").stat().st_size == size
    shutil.rmtree(found.folder)
    return seconds


def _measure(folder: Path, given: argparse.Namespace) -> dict[str, list[float]]:
    source, size = folder / "own" / "model", given.size_mib * MIB
    source.mkdir(parents=True)
    (source / "model.safetensors").write_bytes(os.urandom(size))
    seconds: dict[str, list[float]] = {}
    own = CopiedFolders(folder / "own")

    async def run(socket: Path) -> None:
        while not (await own.listing(str(source))).known:
            pass
        for _ in range(given.times):
            target = folder / "cp"
            seconds.setdefault("cp", []).append(_copied(source, target))
            shutil.rmtree(target)
            for piece in given.piece_mib:
                line = SocketCarrier(socket, "other", seconds=60)
                agents = [_Agent("own", own), RemoteHost("other", line, head=HEAD)]
                models = HostsModels(
                    Agents(cast("list[HostAgent]", agents)),
                    piece_bytes=piece * MIB,
                    bytes_per_second=1e12,
                )
                name = f"pieces of {piece} MiB"
                seconds.setdefault(name, []).append(await _brought(models, source, size))

    with _agent(folder) as socket:
        asyncio.run(run(socket))
    return seconds


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print MB/s of each way."""
    parser = options(__doc__)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure")
    parser.add_argument("--size-mib", type=int, default=512, help="size of the model")
    parser.add_argument("--piece-mib", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--times", type=int, default=5, help="rounds")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        seconds = _measure(Path(folder), given)
    for name, seen in seconds.items():
        rates = sorted(given.size_mib * MIB / 1e6 / one for one in seen)
        middle = statistics.median(rates)
        print(f"{name:18} median {middle:6.0f} MB/s, {rates[0]:.0f} to {rates[-1]:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
