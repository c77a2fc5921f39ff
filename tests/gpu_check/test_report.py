"""The report has readable tables, in Markdown and in HTML."""

from pathlib import Path

from bench.gpu_check import paper
from bench.gpu_check.ledger import Ledger, Subject
from bench.gpu_check.report import Run, Section, cell, columns, markdown, page, sections
from bench.gpu_check.schedule import Trial
from partitiond.core.model.workload import Workload
from partitiond.core.performance.footprint import max_batch
from partitiond.models.catalog import CATALOG

RUN = Run("2026-01-01T00:00:00+00:00", 540.0, 12.0, ("1.facts",))


def test_values_for_people() -> None:
    assert [cell(v) for v in (None, True, 1234.56, 0.5, 3.0, 7, "x")] == [
        "-", "yes", "1,234.6", "0.5", "3", "7", "x",
    ]  # fmt: skip


def test_empty_columns_are_left_out() -> None:
    assert columns([{"a": 1, "b": None}, {"a": 2, "c": 3}]) == ["a", "c"]


def test_rows_about_different_things_become_tables_of_their_own() -> None:
    part = Section("x", rows=({"fact": "GPU"}, {"term": "weights"}, {"fact": "driver"}))
    assert [len(table) for table in part.tables] == [2, 1]


def test_what_was_not_reached_and_what_failed_is_said(tmp_path: Path) -> None:
    ledger = Ledger.load(tmp_path, Subject("h200-141gb", "vllm 0.22.0", "full"))
    ledger.done("1.facts", 1.0, {"rows": [{"fact": "GPU", "value": "<b>|H200"}]})
    ledger.failed("1.footprint", 1.0, "no memory\nmore lines")
    trials = (Trial("1.facts"), Trial("1.footprint"))
    parts = sections(
        ledger, [(1, "Discovery", trials)], {"2.opt-125m": "needs 300 s"}, RUN, images={}
    )
    text = markdown(parts, tmp_path)
    assert "| 1 | Discovery | 1 of 2 |" in text
    assert "1.footprint: failed: no memory" in text
    assert "more lines" not in text
    assert "| 2.opt-125m | needs 300 s |" in text
    assert "<b>\\|H200" in text
    assert "<b>" not in page(parts)


def test_without_a_gpu_the_headline_comes_first() -> None:
    parts = sections(None, [], {}, RUN, images={}, headline="There is no GPU.")
    assert parts[0].paragraphs[0] == "There is no GPU."


def test_the_papers_largest_batches_are_ours() -> None:
    for model, batch in paper.MAX_BATCH.items():
        ours = max_batch(CATALOG[model].architecture, Workload(512, 256), paper.MEMORY_BYTES)
        assert ours == batch, model
