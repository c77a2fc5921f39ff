"""A spec is resolved to a folder, for each source."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.errors import ModelSourceError, SpecError
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, SourceKind, Weights
from partitiond.core.model.workload import Workload
from partitiond.models.catalog import CATALOG, source_for
from partitiond.models.resolver import Resolver
from partitiond.ports import ModelResolver
from tests.models.conftest import COMMIT, FakeHub

SMALL = Workload(64, 32)


def spec(text: str, weights: Weights = Weights.DUMMY, **changes: Any) -> ModelSpec:
    source, _ = source_for(text, hub=False)
    return ModelSpec("m", source, weights, SMALL, **changes)


def resolver(tmp_path: Path, **options: Any) -> Resolver:
    return Resolver(tmp_path / "models", None, **options)


def folder_with(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}")
    (folder / "config.json").write_text(json.dumps(CATALOG["opt-125m"].config))
    return folder


def test_it_is_a_model_resolver(tmp_path: Path) -> None:
    port: ModelResolver = resolver(tmp_path)
    assert port


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["opt-125m", "gemma-3-270m", "deepseek-v2-lite", "lfm2-350m"])
async def test_dummy_weights_of_any_catalog_model_need_no_hub(name: str, tmp_path: Path) -> None:
    resolved = await resolver(tmp_path).resolve(spec(name))
    assert resolved.dummy_weights
    assert resolved.architecture == CATALOG[name].architecture
    assert json.loads((resolved.folder / "config.json").read_text()) == CATALOG[name].config
    assert (resolved.folder / "tokenizer.json").is_file()


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("text", ["qwen2.5-0.5b-int4-awq", "Qwen/Qwen2.5-0.5B-Instruct-AWQ"])
async def test_a_quantised_form_is_known_without_the_hub(text: str, tmp_path: Path) -> None:
    plain = CATALOG["qwen2.5-0.5b"].architecture
    architecture = await resolver(tmp_path).architecture(spec(text))
    assert architecture.parameters == plain.parameters
    assert architecture.weights_bytes < plain.weights_bytes / 2 + 10**8
    resolved = await resolver(tmp_path).resolve(spec(text))
    config = json.loads((resolved.folder / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "awq"


async def test_a_dummy_folder_is_made_once(tmp_path: Path) -> None:
    first = (await resolver(tmp_path).resolve(spec("opt-125m"))).folder
    made = (first / "tokenizer.json").stat().st_mtime_ns
    again = (await resolver(tmp_path).resolve(spec("facebook/opt-125m"))).folder
    assert again == first
    assert (again / "tokenizer.json").stat().st_mtime_ns == made


@pytest.mark.usefixtures("no_hub")
async def test_real_weights_without_a_hub_fail_and_name_dummy_weights(
    tmp_path: Path,
) -> None:
    with pytest.raises(ModelSourceError) as caught:
        await resolver(tmp_path).resolve(spec("opt-125m", Weights.REAL))
    assert "--weights dummy" in caught.value.hint


async def test_a_folder_is_used_where_it_is(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "tokenizer.json", "model.safetensors")
    resolved = await resolver(tmp_path).resolve(spec(str(folder), Weights.REAL))
    assert resolved.folder == folder
    assert resolved.revision is None
    assert not resolved.dummy_weights


async def test_a_folder_without_tokenizer_gets_one_for_dummy_weights(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    resolved = await resolver(tmp_path).resolve(spec(str(folder)))
    assert resolved.folder != folder
    assert (resolved.folder / "tokenizer.json").is_file()
    assert not (folder / "tokenizer.json").exists()


async def test_a_folder_with_tokenizer_serves_dummy_weights_itself(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "tokenizer.json")
    assert (await resolver(tmp_path).resolve(spec(str(folder)))).folder == folder


async def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"config\.json"):
        await resolver(tmp_path).architecture(spec(str(tmp_path)))


async def test_an_architecture_alone_has_no_real_weights(tmp_path: Path) -> None:
    source = ModelSource(SourceKind.CONFIG, "opt-1.3b")
    only = ModelSpec("m", source, Weights.REAL, SMALL)
    with pytest.raises(ModelSourceError) as caught:
        await resolver(tmp_path).resolve(only)
    assert "--weights dummy" in caught.value.hint
    dummy = dataclasses.replace(only, weights=Weights.DUMMY)
    assert (await resolver(tmp_path).resolve(dummy)).dummy_weights


async def test_a_package_needs_the_engine_s_environment(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="engine") as caught:
        await resolver(tmp_path).resolve(spec("smollm2-135m", Weights.REAL))
    assert "engine install" in caught.value.hint


async def test_offline_a_package_that_was_never_prepared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="offline"):
        await resolver(tmp_path, offline=True).resolve(spec("smollm2-135m", Weights.REAL))


async def test_the_hub_can_be_preferred_to_a_package(hub: FakeHub, tmp_path: Path) -> None:
    entry = CATALOG["smollm2-135m"]
    hub.repos[entry.hub_id] = {
        "config.json": json.dumps(entry.config).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": b"weights",
    }
    resolved = await resolver(tmp_path, hub=True).resolve(spec("smollm2-135m", Weights.REAL))
    assert (resolved.folder / "model.safetensors").read_bytes() == b"weights"


async def test_dummy_weights_of_an_unknown_hub_model_fetch_its_config_only(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.repos["org/model"] = {
        "config.json": json.dumps(CATALOG["qwen2.5-0.5b"].config).encode(),
        "model.safetensors": b"weights",
    }
    resolved = await resolver(tmp_path).resolve(spec("org/model"))
    assert resolved.dummy_weights
    assert resolved.architecture.family == "qwen2"
    assert not any("safetensors" in path for path in hub.requests)


async def test_a_hub_model_resolves_to_its_commit(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["org/model"] = {
        "config.json": json.dumps(CATALOG["opt-125m"].config).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": b"weights",
    }
    resolved = await resolver(tmp_path).resolve(spec("org/model", Weights.REAL))
    assert resolved.revision == COMMIT


async def test_a_context_the_model_was_not_built_for_is_refused(tmp_path: Path) -> None:
    asked = spec("opt-125m", engine=EngineOptions(max_model_len=4096))
    with pytest.raises(SpecError, match="2048"):
        await resolver(tmp_path).architecture(asked)


async def test_the_architecture_follows_the_engine_s_dtype(tmp_path: Path) -> None:
    wide = await resolver(tmp_path).architecture(
        spec("opt-125m", engine=EngineOptions(dtype="float32"))
    )
    assert wide.weights_bytes == 2 * CATALOG["opt-125m"].architecture.weights_bytes
