"""Lists the models that need only a name, with their sources and configs.

Each model is a JSON file beside this one, with its full config, so that an estimate, a plan and a
run with dummy weights need neither the hub nor an account: a model's speed and memory follow from
its config alone. Revisions are commits of the hub's repositories, so that what was profiled is what
is served; without a known commit the newest is taken. A file also has the parameter count that was
published for the model, with which the tests compare our own count.
"""

import dataclasses
import difflib
import functools
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import SpecError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.families import architecture_from_config
from partitiond.core.model.spec import ModelSource, SourceKind

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A parameter count from a public source.

    Attributes:
        parameters: the count.
        source: where it was published.
        counts_tied_output: the checkpoint stores the output matrix although it is the embedding,
            and so does the count.
    """

    parameters: int
    source: str
    counts_tied_output: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One known model.

    Attributes:
        name: what users write.
        hub_id: repository on the Hugging Face hub.
        revision: commit of that repository; None for the newest.
        licence: identifier of the weights' licence.
        gated: whether the hub asks to accept the licence first.
        config: full `config.json`, good enough for the engine's dummy weights.
        package: Python package that carries the weights, for hosts without the hub.
        purpose: what the model is for, in a sentence.
        note: what users should know before using it; empty if nothing.
        published: its parameters as published; None for a quantised form.
        quantised: quantised forms of the model by name, as "int4-awq", with their repositories.
        form_of: for a quantised form, the name of the model; empty otherwise.
        parsers: the engine's parser of its tool calls ("tool_call") and of its chain of thought
            ("reasoning"), as vLLM's documentation names them. `parser_flags` says what has them.
    """

    name: str
    hub_id: str
    revision: str | None
    licence: str
    gated: bool
    config: Mapping[str, Any]
    package: str | None = None
    purpose: str = ""
    note: str = ""
    published: Published | None = None
    quantised: Mapping[str, "CatalogEntry"] = dataclasses.field(default_factory=dict)
    form_of: str = ""
    parsers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def architecture(self) -> Architecture:
        """The numbers for footprint and roofline, with what is to be known of the model."""
        counted = architecture_from_config(self.config)
        note = " ".join(filter(None, (self.note, counted.note)))
        return dataclasses.replace(counted, note=note)


def parser_flags(source: ModelSource, given: Sequence[str]) -> tuple[str, ...]:
    """Return the engine's flags of a model's parser of tool calls, but for those that are given.

    The parser of its chain of thought is the user's to name: with one, vLLM (0.32) constrains an
    answer only after the chain has ended, which the answer of a plain completion never does.
    """
    entry = entry_of(source)
    parser = entry.parsers.get("tool_call") if entry is not None else None
    flags = (f"--tool-call-parser={parser}", "--enable-auto-tool-choice") if parser else ()
    named = {argument.partition("=")[0] for argument in given}
    return tuple(flag for flag in flags if flag.partition("=")[0] not in named)


def entry_from_json(text: str) -> CatalogEntry:
    """Read a model from its file's text. Raises ValueError, KeyError or TypeError if invalid."""
    data = json.loads(text)
    published = Published(**data.pop("published"))
    forms = data.pop("quantised", ())
    entry = CatalogEntry(**data, published=published)
    return dataclasses.replace(
        entry, quantised={form["name"]: _quantised_form(entry, form) for form in forms}
    )


def _quantised_form(entry: CatalogEntry, form: Mapping[str, Any]) -> CatalogEntry:
    """Return the same model, from a repository of quantised weights."""
    return CatalogEntry(
        name=f"{entry.name}-{form['name']}",
        hub_id=form["hub_id"],
        revision=form["revision"],
        licence=entry.licence,
        gated=False,
        config={**entry.config, "quantization_config": form["quantization_config"]},
        purpose=f"{entry.name} with quantised weights.",
        form_of=entry.name,
        parsers=entry.parsers,
    )


def _load() -> dict[str, CatalogEntry]:
    """Load every model: the paper's first, then by name; sizes of one family in their order."""
    files = resources.files(__name__).iterdir()
    entries = [
        entry_from_json(file.read_text(encoding="utf-8"))
        for file in files
        if file.name.endswith(".json")
    ]
    return {entry.name: entry for entry in sorted(entries, key=_order)}


def _order(entry: CatalogEntry) -> tuple[bool, str, int, str]:
    """Sort key: the paper's OPT models first; else the name up to its size, then the size."""
    assert entry.published is not None
    family = re.sub(r"-\d{1,4}(\.\d{1,4})?[mb].*", "", entry.name)
    return (family != "opt", family, entry.published.parameters, entry.name)


CATALOG: Final[Mapping[str, CatalogEntry]] = _load()
"""The models by name; quantised forms are in `QUANTISED`."""

QUANTISED: Final[Mapping[str, CatalogEntry]] = {
    form.name: form for entry in CATALOG.values() for form in entry.quantised.values()
}
"""Quantised forms by name, as "qwen2.5-7b-int4-awq"."""


@functools.cache
def _by_source() -> Mapping[tuple[SourceKind, str], CatalogEntry]:
    found: dict[tuple[SourceKind, str], CatalogEntry] = {}
    for entry in (*CATALOG.values(), *QUANTISED.values()):
        found[SourceKind.CONFIG, entry.name] = entry
        found[SourceKind.HUB, entry.hub_id.lower()] = entry
        if entry.package is not None:
            found[SourceKind.PACKAGE, entry.package] = entry
    return found


def entry_of(source: ModelSource) -> CatalogEntry | None:
    """Return the catalog's entry behind a source, or None for a model the catalog does not know."""
    ref = source.ref.lower() if source.kind is SourceKind.HUB else source.ref
    return _by_source().get((source.kind, ref))


def entry_named(text: str) -> CatalogEntry | None:
    """Return the model, or quantised form, that a name, package or hub id means, in any case."""
    key = text.strip().lower()
    kinds = (SourceKind.CONFIG, SourceKind.PACKAGE, SourceKind.HUB)
    return next(filter(None, (_by_source().get((kind, key)) for kind in kinds)), None)


def nearest(text: str) -> str:
    """Return up to three names with a similar spelling, as a question; empty if none is similar."""
    near = difflib.get_close_matches(text.strip().lower()[:100], [*CATALOG, *QUANTISED], n=3)
    return f"Did you mean {' or '.join(near)}? " if near else ""


def source_for(text: str, *, hub: bool) -> tuple[ModelSource, CatalogEntry | None]:
    """Read a catalog name, a hub id ("org/name") or a local folder.

    Args:
        text: what the user wrote. A path starts with "/", "./", "../" or "~".
        hub: fetch a catalog model from the hub even if a package carries it.

    Returns:
        The source, and the catalog's entry if there is one.

    Raises:
        SpecError: the text is none of the three, or the folder does not exist.
    """
    text = text.strip()
    entry = entry_named(text)
    if entry is not None:
        by_package = text == entry.package or ("/" not in text and not hub)
        if entry.package is not None and by_package:
            return ModelSource(SourceKind.PACKAGE, entry.package), entry
        return ModelSource(SourceKind.HUB, entry.hub_id, entry.revision), entry
    if text.startswith(("/", "./", "../", "~")) or text in {".", ".."}:
        return _folder_source(text), None
    if _HUB_ID.match(text):
        return ModelSource(SourceKind.HUB, text), None
    raise SpecError(
        f"{text!r} is no model.",
        hint=f"{nearest(text)}Use a name of `partitiond models catalog` (as opt-125m), a hub id "
        "(as org/name) or a folder's path.",
        facts={"model": text, "catalog": sorted(CATALOG)},
    )


def _folder_source(text: str) -> ModelSource:
    try:
        folder = Path(text).expanduser().resolve()
        exists = folder.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        # The path is too long, has a null byte, a closed folder above it, or an unknown "~user".
        shown = repr(text if len(text) <= 100 else text[:100] + "...")
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        raise SpecError(
            f"{shown} cannot be used as a folder's path: {why.rstrip('.')}.",
            hint="Give the folder that holds the model's config.json.",
            facts={"folder": shown},
        ) from error
    if not exists:
        raise SpecError(
            f"the folder {folder} does not exist.",
            hint="Give the folder that holds the model's config.json.",
            facts={"folder": str(folder)},
        )
    return ModelSource(SourceKind.FOLDER, str(folder))
