"""Turns a spec into a folder that the engine loads: the adapter behind `ports.ModelResolver`."""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from partitiond.core.errors import ModelSourceError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.engine_task import overridden
from partitiond.core.model.families import architecture_from_config
from partitiond.core.model.precision import with_dtype
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind, Weights
from partitiond.models.catalog import CatalogEntry, entry_of, parser_flags
from partitiond.models.dummy import write_dummy_folder
from partitiond.models.engine_files import has_tokenizer
from partitiond.models.folder import read_config, require_complete
from partitiond.models.hub import Hub
from partitiond.models.package import PACKAGE_VERSIONS, make_from_package
from partitiond.models.prepared import prepare, revision_of
from partitiond.models.reading import look_at

Progress = Callable[[str, float | None], None]


def _silent(text: str, fraction: float | None) -> None:
    """Progress that nothing listens to."""


class Resolver:
    """Fetches, converts or makes model folders below one folder of the daemon's.

    Args:
        models_dir: where prepared models and copies from the hub live.
        engine_python: python of the engine's environment, for conversions; None if there is no
            engine yet.
        offline: never ask the network.
        hub: fetch a catalog model from the hub even if a package carries it.
    """

    def __init__(
        self,
        models_dir: Path,
        engine_python: Path | None,
        offline: bool = False,
        hub: bool = False,
    ) -> None:
        self._models_dir = models_dir
        self._engine_python = engine_python
        self._offline = offline
        self._prefer_hub = hub
        self._hub = Hub(models_dir / "hub", offline=offline)

    async def architecture(self, spec: ModelSpec) -> Architecture:
        """Return the architecture of a model without fetching its weights.

        Raises:
            ModelSourceError: its config cannot be fetched, or the engine would not load what a
                folder holds.
            SpecError: the architecture is not supported.
        """
        architecture = await _architecture(spec, await self._config(spec.source, _silent))
        if spec.source.kind is SourceKind.FOLDER and spec.weights is not Weights.DUMMY:
            folder = Path(spec.source.ref)
            await look_at(folder, lambda: require_complete(folder, without_weights=True))
        return architecture

    async def resolve(self, spec: ModelSpec, progress: Progress | None = None) -> ResolvedModel:
        """Fetch, convert or make what the engine needs; files that exist on disk are reused.

        Raises:
            ModelSourceError: the model cannot be fetched; the hint names what would work.
            SpecError: as `architecture`.
        """
        report = progress or _silent
        if spec.weights is Weights.DUMMY:
            return await self._dummy(spec, report)
        source = self._effective_source(spec.source)
        match source.kind:
            case SourceKind.PACKAGE:
                folder, revision = await self._package(source, report)
            case SourceKind.HUB:
                snapshot = await self._hub.snapshot(
                    source.ref, source.revision, with_weights=True, report=report
                )
                folder, revision = snapshot.folder, snapshot.revision
            case SourceKind.FOLDER:
                folder, revision = Path(source.ref), None
                await look_at(folder, lambda: read_config(folder))
                await look_at(folder, lambda: require_complete(folder))
            case SourceKind.CONFIG:
                raise ModelSourceError(
                    f"{source.ref} is an architecture only; it has no weights.",
                    hint="Use --weights dummy, a hub id or a local folder.",
                    facts={"source": source.ref},
                )
        config = await look_at(folder, lambda: read_config(folder))
        architecture = await _architecture(spec, config)
        report("ready", 1.0)
        flags = parser_flags(spec.source, spec.engine.extra_args)
        return ResolvedModel(spec, folder, revision, architecture, False, flags)

    def _effective_source(self, source: ModelSource) -> ModelSource:
        entry = entry_of(source)
        if self._prefer_hub and entry is not None and source.kind is SourceKind.PACKAGE:
            return ModelSource(SourceKind.HUB, entry.hub_id, entry.revision)
        return source

    async def _config(self, source: ModelSource, report: Progress) -> Mapping[str, Any]:
        """Return the model's config: from the catalog, the folder, or the hub."""
        entry = _known(source)
        if entry is not None:
            return entry.config
        match source.kind:
            case SourceKind.FOLDER:
                folder = Path(source.ref)
            case SourceKind.HUB:
                snapshot = await self._hub.snapshot(
                    source.ref, source.revision, with_weights=False, report=report
                )
                folder = snapshot.folder
            case SourceKind.PACKAGE:
                # Only the converted model tells what an unknown package carries.
                folder, _ = await self._package(source, report)
            case SourceKind.CONFIG:
                raise ModelSourceError(
                    f"the catalog has no model {source.ref!r}.",
                    hint="Use a name of `partitiond models catalog`.",
                    facts={"source": source.ref},
                )
        return await look_at(folder, lambda: read_config(folder))

    async def _dummy(self, spec: ModelSpec, report: Progress) -> ResolvedModel:
        config = await self._config(spec.source, report)
        architecture = await _architecture(spec, config)
        folder = Path(spec.source.ref)
        own = spec.source.kind is SourceKind.FOLDER
        if not (own and await look_at(folder, lambda: has_tokenizer(folder))):
            folder = await self._dummy_folder(spec.source, config)
        report("ready", 1.0)
        simulated = spec.engine_kind == "simulated"
        flags = parser_flags(spec.source, spec.engine.extra_args) if simulated else ()
        return ResolvedModel(spec, folder, spec.source.revision, architecture, True, flags)

    async def _dummy_folder(self, source: ModelSource, config: Mapping[str, Any]) -> Path:
        """Make one folder per config: another config gets another folder, never a changed one."""
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
        entry = _known(source)
        name = _slug(entry.name if entry else source.ref)
        target = self._models_dir / "dummy" / f"{name}-{digest}"

        async def make(folder: Path) -> None:
            await look_at(target, lambda: write_dummy_folder(config, folder))

        return await prepare(target, None, make)

    async def _package(self, source: ModelSource, report: Progress) -> tuple[Path, str | None]:
        version = source.revision or PACKAGE_VERSIONS.get(source.ref)
        target = self._models_dir / "package" / _slug(f"{source.ref}-{version or 'newest'}")

        async def make(folder: Path) -> None:
            await make_from_package(source.ref, version, self._converter(), folder, report)

        folder = await prepare(target, version, make)
        return folder, await look_at(folder, lambda: revision_of(folder))

    def _converter(self) -> Path:
        """Return the engine's Python; called once it is certain that a conversion is needed."""
        if self._offline:
            raise ModelSourceError(
                "the model is not prepared yet, and offline is set.",
                hint="Unset models.offline once, use a local folder, or use --weights dummy.",
            )
        if self._engine_python is None:
            raise ModelSourceError(
                "converting the model needs the engine's environment, and there is none.",
                hint="Run 'partitiond setup engine install' first.",
            )
        return self._engine_python


def _known(source: ModelSource) -> CatalogEntry | None:
    """Return the catalog's entry, unless the source pins a revision other than the catalog's."""
    entry = entry_of(source)
    if entry is None or source.kind is not SourceKind.HUB:
        return entry
    return entry if source.revision in {None, entry.revision} else None


async def _architecture(spec: ModelSpec, config: Mapping[str, Any]) -> Architecture:
    """Count a model in a thread: a config may list a million modules."""
    config = overridden(config, spec.engine.extra_args)
    counted = await asyncio.to_thread(architecture_from_config, config)
    return with_dtype(counted, spec.engine.dtype)


def _slug(text: str) -> str:
    """Make a file name of bounded length from a reference."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[-80:] or "model"
