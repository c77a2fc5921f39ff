"""Checks what a local model folder holds: config, tokenizer, weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import ModelSourceError
from partitiond.core.model.families.unlisted import STORED_BYTES
from partitiond.models.engine_files import (
    INDEXES,
    TOKENIZER_FILES,
    has_tokenizer,
    missing_of_modules,
    weights_fault,
)

MOST_BYTES: Final = 64 * 2**20
"""Of a config or an index of weights: several times those of the largest models. Assumed."""


def read_config(folder: Path) -> Mapping[str, Any]:
    """Return the folder's `config.json`.

    What vLLM reads beside it is added: how ModelOpt up to 0.29 quantised the weights, and the
    modules of a sentence-transformers model; and the size of the weights, which bounds a family
    that is not counted.

    Raises:
        ModelSourceError: the folder or its config is missing, or the config is no JSON object.
    """
    config = read_object(folder, folder / "config.json")
    added: dict[str, Any] = {}
    beside = folder / "hf_quant_config.json"
    if config.get("quantization_config") is None and beside.is_file():
        quantised = {"quant_method": "modelopt", **read_object(folder, beside)}
        added["quantization_config"] = quantised
    if (modules := read_modules(folder)) is not None:
        found = modules if isinstance(modules, list) else []
        added["modules"] = [one.get("type") for one in found if isinstance(one, dict)]
    if stored := _stored_bytes(folder):
        added[STORED_BYTES] = stored
    return {**config, **added}


def _stored_bytes(folder: Path) -> int:
    """Return bytes of the weights: as the index says, or of the files; 0 if neither is there."""
    for pattern, name in INDEXES:
        if (index := folder / name).is_file():
            metadata = read_object(folder, index).get("metadata")
            total = metadata.get("total_size") if isinstance(metadata, dict) else None
            if isinstance(total, int):
                return total
        # A link of the hub's cache may lead to a file that was not fetched.
        if files := [file for file in folder.glob(pattern) if file.is_file()]:
            return sum(file.stat().st_size for file in files)
    return 0


def read_object(folder: Path, path: Path) -> Mapping[str, Any]:
    """Return the JSON object in a folder's file. Raises ModelSourceError."""
    config = _read_json(folder, path)
    if not isinstance(config, dict):
        raise _error(folder, f"{path} is not a JSON object", "Fetch the model again.")
    return config


def _read_json(folder: Path, path: Path) -> object:
    try:
        if not folder.is_dir():
            raise _error(folder, f"the folder {folder} does not exist", "Give the model's folder.")
        return json.loads(_text(path))
    except FileNotFoundError as error:
        if (folder / "adapter_config.json").is_file():
            what = f"{folder} holds an adapter (adapter_config.json), and no model"
            hint = "Register the model that it was trained on, or merge the two."
            raise _error(folder, what, hint) from error
        raise _error(
            folder,
            f"{folder} holds no config.json",
            "Give a folder in Hugging Face layout: config.json, a tokenizer and weights.",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _error(folder, f"{path} cannot be read: {error}", "Fetch the model again.") from error


def _text(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST_BYTES)


def read_modules(folder: Path) -> object:
    """Return what `modules.json` of a sentence-transformers model holds; None if there is none."""
    path = folder / "modules.json"
    return _read_json(folder, path) if path.is_file() else None


def read_index(folder: Path) -> Mapping[str, Any] | None:
    """Return the index of a folder's weights; None if there is none. Raises ModelSourceError."""
    for _, name in INDEXES:
        if (path := folder / name).is_file():
            return read_object(folder, path)
    return None


def is_fetched(folder: Path) -> bool:
    """Return whether a copy holds all files that the engine reads of it."""
    return (
        has_tokenizer(folder)
        and not weights_fault(folder, read_index(folder), whole=False)
        and not missing_of_modules(folder, read_modules(folder))
    )


def require_complete(folder: Path, *, without_weights: bool = False) -> None:
    """Raise ModelSourceError unless the engine can load real weights from the folder.

    Args:
        without_weights: let a folder pass that has no weights at all (yet); what it has counts.
    """
    absent = not any(file.is_file() for pattern, _ in INDEXES for file in folder.glob(pattern))
    fault = weights_fault(folder, read_index(folder), whole=True)
    if fault and not (absent and without_weights):
        raise _error(
            folder,
            f"{folder} holds no complete weights: {fault}",
            "Fetch all of its files, or register it with --weights dummy.",
        )
    if missing := missing_of_modules(folder, read_modules(folder)):
        raise _error(
            folder,
            f"{folder} lacks {missing[0]}, which modules.json names: the engine would pool by a "
            "default of its own",
            "Fetch all of its files.",
        )
    if not (has_tokenizer(folder) or without_weights):
        raise _error(
            folder,
            f"{folder} holds no tokenizer ({', '.join(TOKENIZER_FILES)})",
            "Add the model's tokenizer files.",
        )


def _error(folder: Path, message: str, hint: str) -> ModelSourceError:
    return ModelSourceError(f"{message}.", hint=hint, facts={"folder": str(folder)})
