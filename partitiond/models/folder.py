"""Checks what a local model folder holds: config, tokenizer, weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import ModelSourceError
from partitiond.core.model.families.unlisted import STORED_BYTES

MOST_BYTES: Final = 64 * 2**20
"""Of a config or an index of weights: several times those of the largest models. Assumed."""
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
"""Any one of them is enough for the engine to build a tokenizer."""
_WEIGHTS: Final = (
    ("*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
)
"""Names of weight files and of what lists them, the preferred first."""


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
    modules = folder / "modules.json"
    if modules.is_file():
        listed = _read_json(folder, modules)
        found = listed if isinstance(listed, list) else []
        added["modules"] = [one.get("type") for one in found if isinstance(one, dict)]
    if stored := _stored_bytes(folder):
        added[STORED_BYTES] = stored
    return {**config, **added}


def _stored_bytes(folder: Path) -> int:
    """Return bytes of the weights: as the index says, or of the files; 0 if neither is there."""
    for pattern, name in _WEIGHTS:
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


def has_tokenizer(folder: Path) -> bool:
    """Return whether the engine can build a tokenizer from the folder."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def has_weights(folder: Path) -> bool:
    """Return whether all weight files exist: every shard that the index names, or one single
    file.
    """
    for pattern, index in _WEIGHTS:
        if (folder / index).is_file():
            return all((folder / shard).is_file() for shard in _shards(folder / index))
        if any(folder.glob(pattern)):
            return True
    return False


def _shards(index: Path) -> set[str]:
    try:
        names: Mapping[str, str] = json.loads(_text(index))["weight_map"]
        return set(names.values())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _error(index.parent, f"{index} cannot be read", "Fetch the model again.") from error


def require_complete(folder: Path) -> None:
    """Raise ModelSourceError unless the engine can load real weights from the folder."""
    if not has_weights(folder):
        raise _error(
            folder,
            f"{folder} holds no complete weights (*.safetensors or pytorch_model*.bin)",
            "Fetch all of its files, or register it with --weights dummy.",
        )
    if not has_tokenizer(folder):
        raise _error(
            folder,
            f"{folder} holds no tokenizer ({', '.join(TOKENIZER_FILES)})",
            "Add the model's tokenizer files.",
        )


def _error(folder: Path, message: str, hint: str) -> ModelSourceError:
    return ModelSourceError(f"{message}.", hint=hint, facts={"folder": str(folder)})
