"""Rows of the catalog have the figures by which a person compares models."""

import pytest

from partitiond.models.catalog import CATALOG
from partitiond.models.listing import count_text, engine_word, row_of, rows
from partitiond.models.start_results import Start


def test_every_model_has_a_row_in_the_catalog_s_order() -> None:
    assert [row.name for row in rows()] == list(CATALOG)


def test_a_mixture_of_experts_shows_what_one_token_passes_through() -> None:
    row = row_of(CATALOG["olmoe-1b-7b"])
    assert row.parameters == 6_919_161_856
    assert 1.2e9 < row.active_parameters < 1.4e9  # "1B-7B"


def test_quantised_forms_are_smaller_and_named() -> None:
    row = row_of(CATALOG["qwen2.5-7b"])
    assert [form.name for form in row.quantised] == ["int4-awq", "int4-gptq", "int8-gptq"]
    assert all(form.weights_bytes < row.weights_bytes for form in row.quantised)


@pytest.mark.parametrize(
    ("start", "word"),
    [
        (None, "not tried"),
        (Start(started=False, reason="no kernel"), "does not start"),
        (Start(started=True, fallback=True), "fallback"),
        (Start(started=True), "native"),
    ],
)
def test_how_the_engine_serves_it_in_a_word(start: Start | None, word: str) -> None:
    assert engine_word(start) == word


def test_why_a_model_does_not_start_is_in_its_note() -> None:
    for row in rows():
        if row.engine == "does not start":
            assert "does not start it on a CPU" in row.note


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (134_515_008, "135M"),
        (999_885_952, "1B"),
        (1_235_814_400, "1.24B"),
        (15_706_484_224, "15.7B"),
    ],
)
def test_counts_have_three_digits(count: int, text: str) -> None:
    assert count_text(count) == text
