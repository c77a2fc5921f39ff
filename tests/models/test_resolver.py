"""A spec is resolved to a folder, for each source."""

import dataclasses
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.errors import ModelSourceError, SpecError
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, SourceKind, Weights
from partitiond.core.model.workload import Workload
from partitiond.models import reading
from partitiond.models import resolver as resolving
from partitiond.models.catalog import CATALOG, source_for
from partitiond.models.folder import read_config
from partitiond.models.resolver import Resolver
from partitiond.platform.deadline_calls import DeadlineCalls
from tests.models.conftest import COMMIT, FakeHub, safetensors

SMALL = Workload(64, 32)


def spec(text: str, weights: Weights = Weights.DUMMY, **changes: Any) -> ModelSpec:
    source, _ = source_for(text, hub=False)
    return ModelSpec("m", source, weights, SMALL, **changes)


def resolver(tmp_path: Path, **options: Any) -> Resolver:
    return Resolver(tmp_path / "models", None, **options)


def folder_with(tmp_path: Path, name: str = "mine") -> Path:
    """A model's config and nothing else."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CATALOG["opt-125m"].config))
    return folder


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
    assert resolved.parser_flags == (), "no parser knows the tokens of a made tokenizer"


@pytest.mark.usefixtures("no_hub")
async def test_a_parser_of_the_catalog_is_a_flag_unless_the_user_names_another(
    tmp_path: Path,
) -> None:
    for given, flags in (
        ((), ("--tool-call-parser=hermes", "--enable-auto-tool-choice")),
        (("--tool-call-parser", "xlam"), ("--enable-auto-tool-choice",)),
    ):
        asked = spec("qwen3-0.6b", engine=EngineOptions(extra_args=given), engine_kind="simulated")
        found = (await resolver(tmp_path).resolve(asked)).parser_flags
        assert found == flags, "a reasoning parser would lift constraints from completions"


async def test_a_dummy_folder_is_made_once(tmp_path: Path) -> None:
    first = (await resolver(tmp_path).resolve(spec("opt-125m"))).folder
    made = (first / "tokenizer.json").stat().st_mtime_ns
    again = (await resolver(tmp_path).resolve(spec("facebook/opt-125m"))).folder
    assert again == first
    assert (again / "tokenizer.json").stat().st_mtime_ns == made


REAL = Weights.REAL


@pytest.mark.usefixtures("no_hub")
async def test_what_cannot_be_resolved_says_what_to_do(tmp_path: Path) -> None:
    here, offline = resolver(tmp_path), resolver(tmp_path, offline=True)
    config = ModelSpec("m", ModelSource(SourceKind.CONFIG, "opt-1.3b"), REAL, SMALL)
    for made, asked, hint in (
        (here, spec("opt-125m", REAL), "--weights dummy"),
        (here, config, "--weights dummy"),  # an architecture alone has no weights
        (here, spec("smollm2-135m", REAL), "engine install"),
        (offline, spec("smollm2-135m", REAL), ""),
        (here, spec(str(tmp_path)), "config.json"),
    ):
        with pytest.raises(ModelSourceError) as caught:
            await made.resolve(asked)
        assert hint in caught.value.hint
    assert (await here.resolve(dataclasses.replace(config, weights=Weights.DUMMY))).dummy_weights


async def test_a_folder_is_used_where_it_is_if_it_is_complete(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    resolved = await resolver(tmp_path).resolve(spec(str(folder)))
    assert resolved.folder != folder, "dummy weights need a tokenizer"
    assert (resolved.folder / "tokenizer.json").is_file()
    assert not (folder / "tokenizer.json").exists()
    (folder / "tokenizer.json").write_text("{}")
    assert (await resolver(tmp_path).resolve(spec(str(folder)))).folder == folder
    (folder / "model.safetensors").write_text("{}")
    for asked in (resolver(tmp_path).architecture, resolver(tmp_path).resolve):
        with pytest.raises(ModelSourceError, match="cut off"):
            await asked(spec(str(folder), REAL))
    (folder / "model.safetensors").write_bytes(safetensors(a=1))
    resolved = await resolver(tmp_path).resolve(spec(str(folder), REAL))
    assert (resolved.folder, resolved.revision, resolved.dummy_weights) == (folder, None, False)


def files_of(name: str) -> dict[str, bytes]:
    config = json.dumps(CATALOG[name].config).encode()
    return {"config.json": config, "tokenizer.json": b"{}", "model.safetensors": b"weights"}


async def test_models_of_the_hub_resolve_to_their_commit(hub: FakeHub, tmp_path: Path) -> None:
    """Dummy weights of an unknown one fetch its config only; a package's model can be preferred."""
    hub.repos["org/model"] = files_of("qwen2.5-0.5b")
    dummy = await resolver(tmp_path).resolve(spec("org/model"))
    assert (dummy.dummy_weights, dummy.architecture.family) == (True, "qwen2")
    assert not any("safetensors" in path for path in hub.requests)
    real = await resolver(tmp_path).resolve(spec("org/model", REAL))
    assert real.revision == COMMIT
    hub.repos[CATALOG["smollm2-135m"].hub_id] = files_of("smollm2-135m")
    resolved = await resolver(tmp_path, hub=True).resolve(spec("smollm2-135m", REAL))
    assert (resolved.folder / "model.safetensors").read_bytes() == b"weights"


async def test_the_architecture_follows_the_engine_s_dtype(tmp_path: Path) -> None:
    float32 = spec("opt-125m", engine=EngineOptions(dtype="float32"))
    wide = await resolver(tmp_path).architecture(float32)
    assert wide.weights_bytes == 2 * CATALOG["opt-125m"].architecture.weights_bytes


async def test_what_flags_put_over_the_config_counts(tmp_path: Path) -> None:
    """So a reranker that is published as a decoder pools, and a changed context is reserved."""
    resolve = resolver(tmp_path).architecture
    name = "qwen3-0.6b"
    usual = await resolve(spec(name))
    flag = '--hf-overrides={"architectures":["Qwen3ForSequenceClassification"],"vocab_size":999}'
    for words in ((flag,), tuple(flag.split("=", 1))):
        changed = spec(name, engine=EngineOptions(extra_args=words))
        found = await resolve(changed)
        assert (found.pools, found.vocab_size) == (True, 999)
        assert (usual.pools, found.layers) == (False, usual.layers)
    for odd in ("--hf-overrides={", "--hf-overrides=[]"):
        with pytest.raises(SpecError, match="JSON object"):
            await resolve(spec(name, engine=EngineOptions(extra_args=(odd,))))


async def test_what_modelopt_says_beside_the_config_counts(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "quantised")
    plain = await resolver(tmp_path).architecture(spec(str(folder)))
    said = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (folder / "hf_quant_config.json").write_text(json.dumps(said))
    found = await resolver(tmp_path).architecture(spec(str(folder)))
    assert found.quantised_parameters == plain.linear_parameters
    assert found.kv_bytes_per_token == plain.kv_bytes_per_token // 2


async def test_a_file_system_that_hangs_is_an_error_of_its_model_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread is stuck there; the loop goes on, and other models are found."""
    dead, fine = (folder_with(tmp_path, name) for name in ("dead", "fine"))
    answers, real = threading.Event(), read_config

    def read(folder: Path) -> Mapping[str, Any]:
        if folder == dead:
            answers.wait()
        return real(folder)

    monkeypatch.setattr(resolving, "read_config", read)
    monkeypatch.setattr(reading, "_FILES", DeadlineCalls(0.05))
    here = resolver(tmp_path)
    for ask in (here.resolve, here.architecture):
        with pytest.raises(ModelSourceError, match="silent for") as raised:
            await ask(spec(str(dead)))
        assert raised.value.facts == {"folder": str(dead)}
    monkeypatch.setattr(reading, "_FILES", DeadlineCalls())
    assert (await here.resolve(spec(str(fine)))).architecture is not None
    answers.set()
    assert (await here.resolve(spec(str(dead)))).architecture is not None
