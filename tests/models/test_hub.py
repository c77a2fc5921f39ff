"""Snapshots from the hub come once, pinned and without code; a missing one has a clear message."""

from pathlib import Path

import pytest

from partitiond.core.errors import ModelSourceError
from partitiond.models.hub import Hub, Snapshot
from tests.models.conftest import COMMIT, NOBODY, FakeHub, point_to_hub

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"the same weights again",
    "modeling_custom.py": b"raise SystemExit",
    "original/consolidated.pth": b"and again",
}


async def snapshot(
    hub: Hub, name: str = "org/model", revision: str | None = COMMIT, *, with_weights: bool = True
) -> Snapshot:
    return await hub.snapshot(name, revision, with_weights=with_weights, report=lambda *_: None)


async def test_a_model_is_fetched_once_then_found_on_disk(hub: FakeHub, tmp_path: Path) -> None:
    """A copy of its config is not taken for the whole; offline, nobody is asked."""
    hub.repos["org/model"] = FILES
    models = Hub(tmp_path / "cache", offline=False)
    config = await snapshot(models, with_weights=False)
    assert not (config.folder / "model.safetensors").exists()
    told: list[str] = []
    first = await models.snapshot(
        "org/model", COMMIT, with_weights=True, report=lambda text, _: told.append(text)
    )
    assert (first.folder / "model.safetensors").read_bytes() == b"weights"
    assert not (first.folder / "modeling_custom.py").exists()
    assert first.revision == COMMIT
    assert any("org/model" in text for text in told)
    asked = len(hub.requests)
    offline = Hub(tmp_path / "cache", offline=True)
    assert await snapshot(models) == await snapshot(offline) == first
    with pytest.raises(ModelSourceError, match="offline"):
        await snapshot(offline, "org/other", None)
    assert len(hub.requests) == asked


async def test_what_modules_name_comes_with_the_weights_and_completes_older_copies(
    hub: FakeHub, tmp_path: Path
) -> None:
    """An engine pools by a default of its own where it does not find how a model pools."""
    modules = b'[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]'
    hub.repos["org/model"] = {**FILES, "modules.json": modules}
    hub.repos["org/model"]["1_Pooling/config.json"] = b'{"pooling_mode_mean_tokens": true}'
    cache = tmp_path / "cache"
    first = await snapshot(Hub(cache, offline=False))
    pooling = first.folder / "1_Pooling" / "config.json"
    assert b"mean" in pooling.read_bytes()
    assert not (first.folder / "pytorch_model.bin").exists()
    pooling.unlink()
    with pytest.raises(ModelSourceError, match="offline"):
        await snapshot(Hub(cache, offline=True))
    assert await snapshot(Hub(cache, offline=False)) == first
    assert pooling.is_file()


async def test_a_model_that_cannot_be_had_says_what_to_do(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add("org/gated")
    models = Hub(tmp_path, offline=False)
    with pytest.raises(ModelSourceError, match="licence") as caught:
        await snapshot(models, "org/gated", None)
    assert "HF_TOKEN" in caught.value.hint
    with pytest.raises(ModelSourceError, match="no model org/nothing"):
        await snapshot(models, "org/nothing", None)
    point_to_hub(monkeypatch, tmp_path, NOBODY)
    with pytest.raises(ModelSourceError, match="cannot be reached") as caught:
        await snapshot(models)
    assert "--weights dummy" in caught.value.hint
