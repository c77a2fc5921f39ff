"""Of a model what the engine reads is fetched, and what it would not load is refused before."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from partitiond.core.errors import ModelSourceError
from partitiond.models.engine_files import large_files, small_files
from partitiond.models.folder import is_fetched, read_config, require_complete
from tests.models.conftest import safetensors

POOLING = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
DENSE = {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}
NORMALIZE = {"type": "sentence_transformers.models.Normalize", "path": "3_Normalize"}
MODULES = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    POOLING,
    DENSE,
    NORMALIZE,
]
REPOSITORY = [
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "2_Dense/pytorch_model.bin",
    "README.md",
    "additional_chat_templates/rag.jinja",
    "config.json",
    "model-1.safetensors",
    "model-2.safetensors",
    "model.safetensors.index.json",
    "modeling_custom.py",
    "modules.json",
    "onnx/config.json",
    "onnx/model.safetensors",
    "optimizer.safetensors",
    "original/consolidated.pth",
    "pytorch_model.bin",
    "sentencepiece.bpe.model",
    "tokenizer.model.v3",
    "vocab.txt",
]


WHOLE = safetensors(a=3, b=5)
INDEX = json.dumps(
    {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
).encode()
COMPLETE: Mapping[str, bytes] = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": WHOLE,
}


def folder_of(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def test_config_tokenizer_and_templates_are_chosen_and_no_code() -> None:
    assert small_files(REPOSITORY) == [
        "additional_chat_templates/rag.jinja",
        "config.json",
        "model.safetensors.index.json",
        "modules.json",
        "sentencepiece.bpe.model",
        "tokenizer.model.v3",
        "vocab.txt",
    ]


def test_weights_are_what_the_index_lists_else_one_set_of_those_at_the_top() -> None:
    at_the_top = ["model-1.safetensors", "model-2.safetensors"]
    assert large_files(REPOSITORY, ["model-2.safetensors", "gone"], None) == at_the_top[1:]
    assert large_files(REPOSITORY, [], None) == at_the_top
    assert large_files([n for n in REPOSITORY if n not in at_the_top], [], None) == [
        "pytorch_model.bin"
    ]


def test_modules_bring_their_configs_and_weights_and_lead_nowhere_else() -> None:
    chosen = large_files(REPOSITORY, [], MODULES)
    assert chosen[2:] == [
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    ]
    older = [name for name in REPOSITORY if name != "2_Dense/model.safetensors"]
    assert large_files(older, [], MODULES)[-1] == "2_Dense/pytorch_model.bin"
    odds: list[object] = [{}, "x", [1, None], [{"path": "../onnx", "type": "x"}], [{"path": None}]]
    for odd in odds:
        assert large_files(REPOSITORY, [], odd) == chosen[:2]


@pytest.mark.parametrize(
    "tokenizer", ["tekken.json", "vocab.txt", "tokenizer.model.v7", "q.tiktoken"]
)
def test_a_folder_with_any_tokenizer_that_the_engine_reads_is_complete(
    tmp_path: Path, tokenizer: str
) -> None:
    files = {**COMPLETE, tokenizer: b"{}"}
    del files["tokenizer.json"]
    require_complete(folder_of(tmp_path, files))
    assert is_fetched(tmp_path)


SHARDS = {"model-00001-of-00002.safetensors": WHOLE, "model-00002-of-00002.safetensors": WHOLE}
FAULTS: Mapping[str, tuple[Mapping[str, bytes], str]] = {
    "no weights": ({}, "there are none"),
    "a pointer": ({"model.safetensors": b"version https://git-lfs.x"}, "git lfs pull"),
    "a pointer for torch": ({"pytorch_model.bin": b"version https://git-lfs"}, "git lfs"),
    "an empty file": ({"model.safetensors": b""}, "model.safetensors is empty"),
    "cut off by a byte": ({"model.safetensors": WHOLE[:-1]}, "cut off"),
    "a byte too many": ({"model.safetensors": WHOLE + b"x"}, "cut off"),
    "cut off in its header": ({"model.safetensors": WHOLE[:20]}, "cut off"),
    "a header that is none": ({"model.safetensors": b"x" * 64}, "no safetensors file"),
    "a header of another shape": (
        {"model.safetensors": (2).to_bytes(8, "little") + b"[]"},
        "no safetensors file",
    ),
    "no tensors": ({"model.safetensors": safetensors()}, "holds no tensors"),
    "an adapter's weights": (
        {"model.safetensors": WHOLE, "adapter_model.safetensors": WHOLE},
        "adapter_model.safetensors is no part",
    ),
    "an optimizer": ({"optimizer.safetensors": WHOLE}, "optimizer.safetensors is no part"),
    "one shard without its index": (dict(list(SHARDS.items())[1:]), "shard 1 of 2 is missing"),
    "one shard of the index": (
        {"model.safetensors.index.json": INDEX, "model-1.safetensors": WHOLE},
        "model-2.safetensors is missing",
    ),
    "an index of nothing": (
        {"model.safetensors.index.json": b"{}", "model-1.safetensors": WHOLE},
        "the index is empty",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_the_engine_would_not_load_are_refused_in_words(
    tmp_path: Path, fault: str
) -> None:
    files, words = FAULTS[fault]
    folder_of(tmp_path, {"config.json": b"{}", "tokenizer.json": b"{}", **files})
    with pytest.raises(ModelSourceError, match=re.escape(words)) as caught:
        require_complete(tmp_path)
    assert "--weights dummy" in caught.value.hint


@pytest.mark.parametrize(
    "files",
    [SHARDS, {"model.safetensors.index.json": INDEX, "model-1.safetensors": WHOLE,
              "model-2.safetensors": WHOLE, "optimizer.safetensors": WHOLE}],
)  # fmt: skip
def test_shards_are_whole_with_an_index_or_without(tmp_path: Path, files: dict[str, bytes]) -> None:
    require_complete(folder_of(tmp_path, {"tokenizer.json": b"{}", **files}))


def test_a_folder_without_weights_may_be_registered_by_its_config_and_a_broken_one_may_not(
    tmp_path: Path,
) -> None:
    folder_of(tmp_path, {"config.json": b"{}", "model.safetensors.index.json": INDEX})
    require_complete(tmp_path, without_weights=True)
    folder_of(tmp_path, {"model-1.safetensors": WHOLE})
    with pytest.raises(ModelSourceError, match=r"model-2\.safetensors is missing"):
        require_complete(tmp_path, without_weights=True)


def test_no_tokenizer_is_refused_in_words(tmp_path: Path) -> None:
    folder_of(tmp_path, {"config.json": b"{}", "model.safetensors": WHOLE})
    with pytest.raises(ModelSourceError, match="no tokenizer"):
        require_complete(tmp_path)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    folder_of(tmp_path, {"adapter_config.json": b"{}", "adapter_model.safetensors": WHOLE})
    with pytest.raises(ModelSourceError, match="holds an adapter"):
        read_config(tmp_path)


@pytest.mark.parametrize("lost", ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/x.bin"])
def test_a_copy_that_lacks_what_its_modules_read_is_fetched_again_and_refused_as_a_folder(
    tmp_path: Path, lost: str
) -> None:
    """An engine pools by a default of its own without it, and says so in its log alone."""
    files = {
        **COMPLETE,
        "modules.json": json.dumps(MODULES).encode(),
        "1_Pooling/config.json": b"{}",
        "2_Dense/config.json": b"{}",
        "2_Dense/x.bin": b"x",
    }
    folder_of(tmp_path, files)
    require_complete(tmp_path)
    assert is_fetched(tmp_path)
    (tmp_path / lost).unlink()
    assert not is_fetched(tmp_path)
    with pytest.raises(ModelSourceError, match=lost.partition("/")[0]):
        require_complete(tmp_path)
