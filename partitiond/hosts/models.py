"""Brings the files of models to the hosts that run them (`ports.FleetModels`).

The control plane's own host fetches a model once, and it alone has credentials of the hub. Another
host that needs the files copies them, piece by piece through this process, from the own host, or
from another one that has them if the own host's disk fails. A host on which the same folder holds
the same files, as on shared storage, copies nothing.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from partitiond.core.errors import HostSilentError, ModelSourceError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import ModelSpec
from partitiond.core.units import MIB, format_bytes
from partitiond.hosts.agents import ASK_AGAIN_SECONDS, Agents
from partitiond.ports.model import ModelFile, ModelFolders, ModelListing, ReceivedModel

PIECE_BYTES: Final = 4 * MIB
"""Size of a piece. Chosen: larger pieces were no faster when measured, and a piece takes
less than a message's deadline on a line of 1 MiB/s."""
COPIES_AT_ONCE: Final = 4
"""Copies in progress. Chosen: one or two fill the line of this host; each holds two pieces."""
COPY_BYTES_PER_SECOND: Final = 500 * MIB
"""Most bytes of one copy in a second. Chosen: 40 % of a line of 10 Gbit/s; requests and calls have
the rest."""
ASKED_MOST: Final = 3
"""Tries of a call before a host counts as silent. Chosen: a lost message is nothing to report; the
caller tries again later, and the copy goes on from where it is."""
DAMAGED_MOST: Final = 3
"""Copies of one file that may arrive damaged, before a person has to look. Chosen."""
PAUSE_SECONDS: Final = 0.1
"""Pause between two questions for checksums, whose answers take a second if they compute."""

Report = Callable[[str, float | None], None]
T = TypeVar("T")


def _silent(text: str, fraction: float | None) -> None:
    """Progress that nothing listens to."""


class HostsModels:
    """Implements `ports.ModelResolver` and `ports.FleetModels` over the agents of all hosts.

    Args:
        bytes_per_second: most bytes of one copy in a second.
    """

    def __init__(
        self,
        agents: Agents,
        *,
        ask_again_seconds: float = ASK_AGAIN_SECONDS,
        piece_bytes: int = PIECE_BYTES,
        bytes_per_second: float = COPY_BYTES_PER_SECOND,
    ) -> None:
        self._agents = agents
        self._ask_again_seconds = ask_again_seconds
        self._piece_bytes = piece_bytes
        self._bytes_per_second = bytes_per_second
        self._at_once = asyncio.Semaphore(COPIES_AT_ONCE)
        self._lying: dict[tuple[ModelFile, ...], dict[str, str]] = {}
        """Folders in which the same files lie, by host."""

    async def architecture(self, spec: ModelSpec) -> Architecture:
        """Return the architecture without fetching weights. Raises ModelSourceError."""
        return await self._agents.own.agent.models.architecture(spec)

    async def resolve(self, spec: ModelSpec, progress: Report | None = None) -> ResolvedModel:
        """Fetch or make on the own host what the engine needs."""
        return await self._agents.own.agent.models.resolve(spec, progress)

    async def bring(
        self, model: ResolvedModel, host: str, progress: Report | None = None
    ) -> ResolvedModel:
        """Return the model with its folder on that host; copy files there that it lacks."""
        record, report = self._agents.found(host), progress or _silent
        if record.is_own:
            return model
        listing = await self._listed(str(model.folder), report)
        # A host gets one copy after another: two at once would each take twice as long.
        async with record.copying:
            folder = await _Copy(self, listing, record.name, record.agent.folders, report).made()
        self._lying.setdefault(listing.files, {})[record.name] = folder
        return dataclasses.replace(model, folder=Path(folder))

    async def _listed(self, folder: str, report: Report) -> ModelListing:
        """Return the files of a folder of the own host, with their checksums."""
        while True:
            listing = await self._agents.own.agent.folders.listing(folder)
            if listing.known:
                return listing
            done = sum(file.size_bytes for file in listing.files if file.sha256)
            report("computing checksums of its files", done / max(1, listing.size_bytes))
            await asyncio.sleep(PAUSE_SECONDS)

    async def asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask a host; ask again if no answer came. Raises HostSilentError."""
        for _ in range(ASKED_MOST - 1):
            with contextlib.suppress(HostSilentError):
                return await ask()
            await asyncio.sleep(self._ask_again_seconds)
        return await ask()

    async def piece(self, listing: ModelListing, name: str, offset: int, taker: str) -> bytes:
        """Read a piece on the own host, else on another host that has the files.

        Raises:
            ModelSourceError, HostSilentError: no host gives it.
        """
        places = {self._agents.own.name: listing.folder, **self._lying.get(listing.files, {})}
        places.pop(taker, None)
        broke: ModelSourceError | HostSilentError | None = None
        for host, folder in places.items():
            try:
                data = await self._agents.of(host).folders.read(
                    folder, name, offset, self._piece_bytes
                )
            except (ModelSourceError, HostSilentError) as error:
                broke = broke or error
            else:
                if data:
                    return data
        raise broke or ModelSourceError(
            f"{name} is shorter than it was.",
            hint="The model's files changed while they were copied; they are copied again.",
            facts={"folder": listing.folder, "name": name},
        )

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator["_Pace"]:
        """Wait until a copy may move bytes."""
        async with self._at_once:
            yield _Pace(self._bytes_per_second)


class _Pace:
    """Holds a copy below its bytes per second."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._since, self._moved = asyncio.get_running_loop().time(), 0

    async def moved(self, size: int) -> None:
        """Wait until so many bytes more may have been moved."""
        self._moved += size
        passed = asyncio.get_running_loop().time() - self._since
        early = self._moved / self._rate - passed
        if early > 0:
            await asyncio.sleep(early)


class _Copy:
    """One model on its way to one host."""

    def __init__(
        self, hosts: HostsModels, listing: ModelListing, host: str, to: ModelFolders, report: Report
    ) -> None:
        self._hosts = hosts
        self._listing = listing
        self._host = host
        self._to = to
        self._report = report
        self._damaged: dict[str, int] = {}

    async def made(self) -> str:
        """Return the folder there, once all files are in it."""
        while True:
            there = await self._there(lambda: self._to.receive(self._listing))
            if there.folder:
                return there.folder
            if there.checked < 1:
                self._report(f"checking files on {self._host}", there.checked)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self._count(there)
            async with self._hosts.turn() as pace:
                await self._fill(there, pace)

    def _count(self, there: ReceivedModel) -> None:
        for name in there.damaged:
            self._damaged[name] = self._damaged.get(name, 0) + 1
            if self._damaged[name] >= DAMAGED_MOST:
                raise ModelSourceError(
                    f"{name} arrived on {self._host} with a wrong checksum "
                    f"{self._damaged[name]} times.",
                    hint=f"Check memory, disk and network of {self._host} and of this host.",
                    facts={"host": self._host, "name": name},
                )

    async def _fill(self, there: ReceivedModel, pace: _Pace) -> None:
        done = sum(there.bytes_of.values())
        for file in self._listing.files:
            have = there.bytes_of.get(file.name)
            if have is None or have < file.size_bytes:
                done -= have or 0
                await self._send(file, have or 0, done, pace)
                done += file.size_bytes

    async def _send(self, file: ModelFile, offset: int, done: int, pace: _Pace) -> None:
        """Send a file from an offset on; the next piece is read while one is written."""
        reading = self._read(file, offset)
        try:
            while True:
                data = await reading
                reading = self._read(file, offset + len(data))
                have = await self._written(file, offset, data)
                if have != offset + len(data):  # it has another part of the file than it said
                    await _ended(reading)
                    reading = self._read(file, have)
                offset = have
                share = (done + offset) / max(1, self._listing.size_bytes)
                total = format_bytes(self._listing.size_bytes)
                moved = format_bytes(done + offset)
                self._report(f"copying files to {self._host}: {moved} of {total}", share)
                if offset >= file.size_bytes:
                    return
                await pace.moved(len(data))
        finally:
            await _ended(reading)

    def _read(self, file: ModelFile, offset: int) -> "asyncio.Task[bytes]":
        async def read() -> bytes:
            if offset >= file.size_bytes:
                return b""
            return await self._hosts.asked(
                lambda: self._hosts.piece(self._listing, file.name, offset, self._host)
            )

        return asyncio.ensure_future(read())

    async def _written(self, file: ModelFile, offset: int, data: bytes) -> int:
        return await self._there(lambda: self._to.write(self._listing, file.name, offset, data))

    async def _there(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the host that takes the files; its problems name it."""
        try:
            return await self._hosts.asked(ask)
        except ModelSourceError as error:
            facts = {**error.facts, "host": self._host}
            message = f"on {self._host}: {error.message}"
            raise ModelSourceError(message, hint=error.hint, facts=facts) from error


async def _ended(task: "asyncio.Task[bytes]") -> None:
    """Cancel a task, and disregard how it ends."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
