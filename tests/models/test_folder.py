"""A model folder is complete, or the message says what it lacks."""

import json
from pathlib import Path

import pytest

from partitiond.core.errors import ModelSourceError
from partitiond.models.folder import has_weights, read_config, require_complete


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ModelSourceError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_folder_without_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"holds no config\.json") as caught:
        read_config(tmp_path)
    assert "config.json" in caught.value.hint


def test_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="does not exist"):
        read_config(tmp_path / "gone")


def test_weights_are_complete_only_with_every_shard(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").touch()
    assert not has_weights(tmp_path)
    (tmp_path / "model-2.safetensors").touch()
    assert has_weights(tmp_path)


def test_real_weights_need_weights_and_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="no complete weights") as caught:
        require_complete(tmp_path)
    assert "--weights dummy" in caught.value.hint
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelSourceError, match="no tokenizer"):
        require_complete(tmp_path)
    (tmp_path / "tokenizer.json").touch()
    require_complete(tmp_path)
