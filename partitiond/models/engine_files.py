"""Chooses the files of a model that the engine reads, and says what keeps it from loading them.

The same rules hold for a repository of the hub, a copy of one on disk, and a folder of the user's:
weights are what the index lists, else whatever lies at the top; modules of sentence-transformers
are those that `modules.json` names.
"""

import fnmatch
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

TOKENIZER_FILES: Final = (
    "tokenizer.json", "tokenizer.model", "tokenizer.model.v*", "tekken.json", "vocab.json",
    "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model",
    "source.spm", "bpe.codes", "*.tiktoken",
)  # fmt: skip
"""Any one of them is enough: what the tokenizers of transformers 5.19 and vLLM 0.32 load."""
_SMALL_FILES: Final = (
    *TOKENIZER_FILES, "*.json", "*.jinja", "merges.txt", "dict.txt",
    "additional_chat_templates/*.jinja",
)  # fmt: skip
"""Config, tokenizer and chat templates, never code: `*.py` is not fetched."""
INDEXES: Final = (
    ("*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
)
"""Names of weight files and of what lists them, the preferred first."""
_NO_WEIGHTS: Final = ("adapter_model.safetensors", "optimizer*.safetensors")
"""What training leaves beside a model, in the same format."""
_READ_MODULES: Final = ("Pooling", "Dense")
"""Modules of sentence-transformers whose folder vLLM reads."""
_SHARD: Final = re.compile(r"-(\d{1,6})-of-(\d{1,6})\.(?:safetensors|bin)\Z")
_POINTER: Final = b"version https://git-lfs"
_MOST_HEADER_BYTES: Final = 100_000_000
"""The format's own limit on a safetensors header."""


def small_files(names: Iterable[str]) -> list[str]:
    """Choose configs, tokenizer and chat templates of a repository."""
    return [name for name in names if _is_small(name)]


def _is_small(name: str) -> bool:
    return any(
        fnmatch.fnmatchcase(name, p) and name.count("/") == p.count("/") for p in _SMALL_FILES
    )


def large_files(names: Collection[str], index: Iterable[str], modules: object) -> list[str]:
    """Choose the weights of a repository, and what its modules are made of.

    Args:
        index: files that the index of the weights lists; empty if there is no index.
        modules: what `modules.json` holds; None if there is none.
    """
    chosen = [name for name in index if name in names] or _at_the_top(names)
    for _, path in module_folders(modules):
        inside = [name for name in names if name.startswith(f"{path}/")]
        weights = [name for name in inside if name.endswith(".safetensors")]
        chosen += [name for name in inside if name.endswith((".json", ".txt", ".model"))]
        chosen += weights or [name for name in inside if name.endswith("/pytorch_model.bin")]
    return chosen


def _at_the_top(names: Iterable[str]) -> list[str]:
    top = [name for name in names if "/" not in name and not _is_left_over(name)]
    for pattern, _ in INDEXES:
        if weights := fnmatch.filter(top, pattern):
            return weights
    return []


def _is_left_over(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _NO_WEIGHTS)


def module_folders(modules: object) -> list[tuple[str, str]]:
    """Return kind and folder of each module that `modules.json` names, but for the model itself."""
    listed = modules if isinstance(modules, list) else []
    found = [
        (str(one.get("type")).rpartition(".")[2], str(one.get("path") or "").strip("/"))
        for one in listed
        if isinstance(one, dict)
    ]
    return [(kind, path) for kind, path in found if path and ".." not in path.split("/")]


def missing_of_modules(folder: Path, modules: object) -> list[str]:
    """Name the files that the engine reads of a folder's modules, and that are not there."""
    wanted = [(kind, folder / path) for kind, path in module_folders(modules)]
    missing = [
        path / "config.json"
        for kind, path in wanted
        if kind in _READ_MODULES and not (path / "config.json").is_file()
    ]
    missing += [
        path / "model.safetensors"
        for kind, path in wanted
        if kind == "Dense" and not (any(path.glob("*.safetensors")) or any(path.glob("*.bin")))
    ]
    return [str(path.relative_to(folder)) for path in missing]


def has_tokenizer(folder: Path) -> bool:
    """Return whether the engine can build a tokenizer from the folder."""
    return any(path.is_file() for name in TOKENIZER_FILES for path in folder.glob(name))


def weights_fault(folder: Path, index: Mapping[str, Any] | None, *, whole: bool) -> str:
    """Say what keeps the engine from loading a folder's weights; empty if nothing does.

    Args:
        index: the index of the weights, as it was read; None if there is none.
        whole: look into the files, too: whether each is what its name says, to its end.
    """
    if index is not None:
        names = sorted(shards(index))
        lost = [name for name in names if not (folder / name).is_file()]
        if lost or not names:
            return f"{lost[0]} is missing, which the index lists" if lost else "the index is empty"
    else:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        if stray := [name for name in names if _is_left_over(name)]:
            return f"{stray[0]} is no part of a model, and the engine would load it as one"
        names = _at_the_top(names)
        if not names:
            return "there are none (*.safetensors or pytorch_model*.bin)"
        if (shard := _lost_shards(names)) is not None:
            return f"shard {shard[0]} of {shard[1]} is missing"
    faults = (_file_fault(folder / name) for name in names) if whole else iter(())
    return next(filter(None, faults), "")


def shards(index: Mapping[str, Any]) -> set[str]:
    """Return the files that an index of weights lists; none if it lists none that are names."""
    listed = index.get("weight_map")
    names = listed.values() if isinstance(listed, dict) else ()
    return {name for name in names if isinstance(name, str) and "/" not in name}


def _lost_shards(names: Sequence[str]) -> tuple[int, int] | None:
    """Return number and count of the first shard that is not there; None if all are."""
    found = [match for name in names if (match := _SHARD.search(name))]
    for count in {int(match[2]) for match in found}:
        there = {int(match[1]) for match in found if int(match[2]) == count}
        for number in range(1, count + 1):
            if number not in there:
                return number, count
    return None


def _file_fault(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
        if not start:
            return f"{path.name} is empty"
        if start == _POINTER:
            return f"{path.name} is a Git LFS pointer: run `git lfs pull`"
        if path.suffix != ".safetensors":
            return ""
        header = int.from_bytes(start[:8], "little")
        size = path.stat().st_size
        if header > _MOST_HEADER_BYTES or 8 + header > size:
            return f"{path.name} is cut off, or no safetensors file"
        file.seek(8)
        try:
            tensors = json.loads(file.read(header))
            ends = [
                tensor["data_offsets"][1] for name, tensor in tensors.items() if name[:2] != "__"
            ]
        except (ValueError, RecursionError, AttributeError, TypeError, LookupError):
            return f"{path.name} is no safetensors file"
    if not ends:
        return f"{path.name} holds no tensors"
    return "" if 8 + header + max(ends) == size else f"{path.name} is cut off"
