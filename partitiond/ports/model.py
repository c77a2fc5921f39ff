"""Defines the resolver, which finds the files of models, and how their files get to other hosts."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from partitiond.core.model.architecture import Architecture
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import ModelSpec


class ModelResolver(Protocol):
    """Turns a spec into files on disk."""

    async def architecture(self, spec: ModelSpec) -> Architecture:
        """Return the architecture without fetching weights. Raises ModelSourceError."""
        ...

    async def resolve(
        self, spec: ModelSpec, progress: Callable[[str, float | None], None] | None = None
    ) -> ResolvedModel:
        """Fetch or make what the engine needs. `progress(text, fraction)`."""
        ...


@runtime_checkable
class FleetModels(Protocol):
    """A resolver over several hosts: it fetches to one host, and brings files to the others."""

    async def bring(
        self,
        model: ResolvedModel,
        host: str,
        progress: Callable[[str, float | None], None] | None = None,
    ) -> ResolvedModel:
        """Return the model with its folder on that host; copy files there that it lacks.

        Raises:
            ModelSourceError: the host cannot keep the files, or no host has them any more.
            HostSilentError: the host does not answer; the next call goes on from where this ended.
        """
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model.

    Attributes:
        name: relative to the model's folder, with slashes.
        sha256: in hexadecimal digits; empty while it is not computed yet.
    """

    name: str
    size_bytes: int
    sha256: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ModelListing:
    """The files of a model's folder, by name.

    Attributes:
        folder: where they lie on the host that lists them.
    """

    folder: str
    files: tuple[ModelFile, ...]

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def has_checksums(self) -> bool:
        """Whether all checksums are computed."""
        return all(file.sha256 for file in self.files)


@dataclasses.dataclass(frozen=True, slots=True)
class ReceivedModel:
    """How much of a model a host has.

    Attributes:
        folder: where the files lie there; empty until all are there and have their checksums.
        bytes_of: bytes that are there, by name of the file.
        checked: share of what is there whose checksum is known; while it is below 1, the host
            computes.
        damaged: files that arrived with another checksum, and were removed.
    """

    folder: str
    bytes_of: Mapping[str, int]
    checked: float = 1.0
    damaged: tuple[str, ...] = ()


class ModelFolders(Protocol):
    """Reads and writes folders of models on one host, a piece at a time.

    All calls return within about a second, and may be repeated: a copy that was interrupted goes on
    from what is on disk.
    """

    async def listing(self, folder: str) -> ModelListing:
        """Return the files below a folder. Checksums are computed in the background; ask again.

        Raises:
            ModelSourceError: the folder cannot be read, or is none that this host gives away.
        """
        ...

    async def read(self, folder: str, name: str, offset: int, size: int) -> bytes:
        """Return a piece of a file; a shorter one at its end. Raises ModelSourceError."""
        ...

    async def receive(self, listing: ModelListing) -> ReceivedModel:
        """Return how much is here of a model that another host lists, and go on checking it.

        The same folder counts if it is here with the same files: hosts may share storage.

        Raises:
            ModelSourceError: the disk has no room for the rest, or cannot be written.
        """
        ...

    async def write(self, listing: ModelListing, name: str, offset: int, data: bytes) -> int:
        """Append a piece to a file of a copy, if the file ends at the offset; return its new size.

        Raises:
            ModelSourceError: the disk is full or cannot be written; what was there before stays.
        """
        ...
