"""Finds the architecture behind a user's model text, without daemon, engine or network."""

import difflib
import json
from pathlib import Path

from partitiond.core.errors import SpecError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.families import architecture_from_config
from partitiond.core.model.spec import ModelSource, SourceKind
from partitiond.models.catalog import CATALOG, entry_of
from partitiond.models.folder import read_config


def architecture_for(text: str) -> tuple[str, Architecture]:
    """Name and architecture of a catalog name, a local folder, or a path to a config.json.

    Raises:
        SpecError: the text is none of them, or the architecture is not supported.
        ModelSourceError: the folder holds no readable config.json.
    """
    wanted = text.strip()
    entry = CATALOG.get(wanted.lower()) or entry_of(ModelSource(SourceKind.HUB, wanted))
    if entry is not None:
        return entry.name, entry.architecture
    try:
        path = Path(wanted).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, an unknown "~user"
        is_file = is_folder = False
    if is_folder:
        return path.resolve().name, architecture_from_config(read_config(path))
    if is_file:
        return path.resolve().parent.name, architecture_from_config(_read(path))
    near = difflib.get_close_matches(wanted.lower(), CATALOG, n=3, cutoff=0.5)
    nearest = f"Did you mean {' or '.join(near)}? " if near else ""
    raise SpecError(
        f"the catalog has no model {wanted[:100]!r}, and there is no such file or folder.",
        hint=f"{nearest}Name a model of `partitiond models catalog`, or give the path of a "
        "config.json: an estimate asks no network.",
        facts={"model": wanted[:100], "nearest": near},
    )


def _read(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(
            f"{path} cannot be read as JSON: {error}.",
            hint="Give the config.json that the model was published with.",
        ) from error
    if not isinstance(config, dict):
        raise SpecError(
            f"{path} is not a JSON object.",
            hint="Give the config.json that the model was published with.",
        )
    return config
