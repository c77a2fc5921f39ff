"""Brings the files of models to the hosts that run them (`ports.FleetModels`).

The control plane's own host fetches a model once, and it alone has credentials of the hub. Another
host that needs the files copies them from it, piece by piece through this process. A host on which
the same folder holds the same files, as on shared storage, copies nothing.
"""

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable
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
"""Copies in progress. Chosen: one or two fill the line of this host."""
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
    """Implements `ports.ModelResolver` and `ports.FleetModels` over the agents of all hosts."""

    def __init__(
        self,
        agents: Agents,
        *,
        ask_again_seconds: float = ASK_AGAIN_SECONDS,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self._agents = agents
        self._ask_again_seconds = ask_again_seconds
        self._piece_bytes = piece_bytes
        self._at_once = asyncio.Semaphore(COPIES_AT_ONCE)

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
        record, report = self._agents.need_record(host), progress or _silent
        if record.is_own:
            return model
        listing = await self._listed(str(model.folder), report)
        # A host gets one copy after another: two at once would each take twice as long.
        async with record.copying:
            folder = await self._copied(listing, record.name, record.agent.folders, report)
        return dataclasses.replace(model, folder=Path(folder))

    async def _listed(self, folder: str, report: Report) -> ModelListing:
        """Return the files of a folder of the own host, with their checksums."""
        while True:
            listing = await self._agents.own.agent.folders.listing(folder)
            if listing.has_checksums:
                return listing
            done = sum(file.size_bytes for file in listing.files if file.sha256)
            report("computing checksums of its files", done / max(1, listing.size_bytes))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _copied(
        self, listing: ModelListing, host: str, to: ModelFolders, report: Report
    ) -> str:
        """Return the folder on a host, once all files are in it."""
        damaged: Counter[str] = Counter()
        while True:
            there = await self._asked(host, lambda: to.receive(listing))
            if there.folder:
                return there.folder
            if there.checked < 1:
                report(f"checking files on {host}", there.checked)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            damaged.update(there.damaged)
            for name, times in damaged.items():
                if times >= DAMAGED_MOST:
                    raise ModelSourceError(
                        f"{name} arrived on {host} with a wrong checksum {times} times.",
                        hint=f"Check memory, disk and network of {host} and of this host.",
                        facts={"host": host, "name": name},
                    )
            async with self._at_once:
                await self._fill(listing, there, host, to, report)

    async def _fill(
        self,
        listing: ModelListing,
        there: ReceivedModel,
        host: str,
        to: ModelFolders,
        report: Report,
    ) -> None:
        """Send what a host lacks of each file."""
        total = format_bytes(listing.size_bytes)
        done = 0
        for file in listing.files:
            offset = there.bytes_of.get(file.name, 0)
            is_there = file.name in there.bytes_of
            while offset < file.size_bytes or not is_there:
                offset = await self._send(listing, file, offset, host, to)
                is_there = True
                share = (done + offset) / max(1, listing.size_bytes)
                moved = format_bytes(done + offset)
                report(f"copying files to {host}: {moved} of {total}", share)
            done += file.size_bytes

    async def _send(
        self, listing: ModelListing, file: ModelFile, offset: int, host: str, to: ModelFolders
    ) -> int:
        """Send a piece of a file; return how much of it the host has then."""
        data = b""
        if offset < file.size_bytes:
            own = self._agents.own.agent.folders
            data = await own.read(listing.folder, file.name, offset, self._piece_bytes)
            if not data:
                raise ModelSourceError(
                    f"{file.name} is shorter than it was.",
                    hint="The model's files changed while they were copied; they are copied again.",
                    facts={"folder": listing.folder, "name": file.name},
                )
        return await self._asked(host, lambda: to.write(listing, file.name, offset, data))

    async def _asked(self, host: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the host that takes the files, again if no answer came; its problems name it.

        Raises:
            HostSilentError, ModelSourceError.
        """
        try:
            for _ in range(ASKED_MOST - 1):
                with contextlib.suppress(HostSilentError):
                    return await ask()
                await asyncio.sleep(self._ask_again_seconds)
            return await ask()
        except ModelSourceError as error:
            facts = {**error.facts, "host": host}
            message = f"on {host}: {error.message}"
            raise ModelSourceError(message, hint=error.hint, facts=facts) from error
