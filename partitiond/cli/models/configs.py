"""Finds the architecture behind a user's model text, without daemon, engine or network."""

from pathlib import Path

from partitiond.core.errors import SpecError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.families import architecture_from_config
from partitiond.models.catalog import entry_named, nearest
from partitiond.models.folder import read_config, read_object


def architecture_for(text: str) -> tuple[str, Architecture]:
    """Name and architecture of a catalog name, a local folder, or a path to a config.json.

    Raises:
        SpecError: the text is none of them, or the architecture is not supported.
        ModelSourceError: the folder or file holds no readable config.
    """
    entry = entry_named(text)
    if entry is not None:
        return entry.name, entry.architecture
    try:
        path = Path(text.strip()).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, an unknown "~user"
        is_file = is_folder = False
    if is_folder:
        return path.resolve().name, architecture_from_config(read_config(path))
    if is_file:
        return path.resolve().parent.name, architecture_from_config(read_object(path.parent, path))
    raise SpecError(
        f"the catalog has no model {text.strip()[:100]!r}, and there is no such file or folder.",
        hint=f"{nearest(text)}Name a model of `partitiond models catalog`, or give the path of a "
        "config.json: an estimate asks no network.",
        facts={"model": text.strip()[:100]},
    )
