"""Snapshots from the hub come once, pinned and without code; a missing one has a clear message."""

from pathlib import Path

import pytest

from partitiond.core.errors import ModelSourceError
from partitiond.models.hub import Hub
from partitiond.models.hub_fetch import choose_files
from tests.models.conftest import COMMIT, FakeHub

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"the same weights again",
    "modeling_custom.py": b"raise SystemExit",
    "original/consolidated.pth": b"and again",
}


def silent(text: str, fraction: float | None) -> None:
    pass


def test_one_set_of_weights_is_chosen_and_no_code() -> None:
    assert choose_files(list(FILES), with_weights=True) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    without = [name for name in FILES if name != "model.safetensors"]
    assert "pytorch_model.bin" in choose_files(without, with_weights=True)
    assert choose_files(list(FILES), with_weights=False) == ["config.json", "tokenizer.json"]


async def test_a_model_is_fetched_once_then_found_on_disk(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["org/model"] = FILES
    models = Hub(tmp_path / "cache", offline=False)
    told: list[str] = []
    first = await models.snapshot(
        "org/model", COMMIT, with_weights=True, report=lambda text, _: told.append(text)
    )
    assert (first.folder / "model.safetensors").read_bytes() == b"weights"
    assert not (first.folder / "modeling_custom.py").exists()
    assert first.revision == COMMIT
    assert any("org/model" in text for text in told)
    asked = len(hub.requests)
    again = await models.snapshot("org/model", COMMIT, with_weights=True, report=silent)
    assert again == first
    assert len(hub.requests) == asked


async def test_a_copy_of_config_only_is_not_taken_for_the_whole(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.repos["org/model"] = FILES
    models = Hub(tmp_path / "cache", offline=False)
    config = await models.snapshot("org/model", COMMIT, with_weights=False, report=silent)
    assert not (config.folder / "model.safetensors").exists()
    whole = await models.snapshot("org/model", COMMIT, with_weights=True, report=silent)
    assert (whole.folder / "model.safetensors").exists()


async def test_offline_uses_what_is_on_disk_and_asks_nobody(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["org/model"] = FILES
    await Hub(tmp_path, offline=False).snapshot(
        "org/model", COMMIT, with_weights=True, report=silent
    )
    asked = len(hub.requests)
    offline = Hub(tmp_path, offline=True)
    await offline.snapshot("org/model", COMMIT, with_weights=True, report=silent)
    with pytest.raises(ModelSourceError, match="offline"):
        await offline.snapshot("org/other", None, with_weights=True, report=silent)
    assert len(hub.requests) == asked


async def test_a_gated_model_says_what_to_do(hub: FakeHub, tmp_path: Path) -> None:
    hub.gated.add("org/gated")
    with pytest.raises(ModelSourceError, match="licence") as caught:
        await Hub(tmp_path, offline=False).snapshot(
            "org/gated", None, with_weights=True, report=silent
        )
    assert "HF_TOKEN" in caught.value.hint


async def test_an_unknown_model_is_named(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="no model org/nothing"):
        await Hub(tmp_path, offline=False).snapshot(
            "org/nothing", None, with_weights=True, report=silent
        )


@pytest.mark.usefixtures("no_hub")
async def test_without_a_hub_it_fails_and_names_dummy_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="cannot be reached") as caught:
        await Hub(tmp_path, offline=False).snapshot(
            "org/model", COMMIT, with_weights=True, report=silent
        )
    assert "--weights dummy" in caught.value.hint
