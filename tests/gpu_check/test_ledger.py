"""The checkpoint loses no finished work, and takes in no foreign results."""

from pathlib import Path

import pytest

from bench.gpu_check.ledger import CHECKPOINT, Ledger, Subject, locked
from bench.gpu_check.publish import published
from bench.gpu_check.report import Run, Section, markdown, page, sections
from bench.gpu_check.schedule import State, Trial
from partitiond.core.errors import ConflictError, InputError, ProfileError
from partitiond.serde import to_json
from tests.controller.samples import measured_profile

SUBJECT = Subject("h200-141gb", "vllm 0.22.0", "gpu")


def test_every_result_is_there_the_next_time(tmp_path: Path) -> None:
    ledger = Ledger.load(tmp_path, SUBJECT)
    ledger.starts.append(31.5)
    ledger.command = "check --scale quick"
    ledger.done("1.facts", 2.0, {"rows": [{"fact": "GPU", "value": "H200"}]})
    ledger.command = "check"
    ledger.impossible("4.mps-2", 1.0, "no MPS")
    ledger.failed("3.eager", 5.0, "out of memory")
    ledger.cut("2.opt-125m", 60.0)
    again = Ledger.load(tmp_path, SUBJECT)
    assert again.entries == ledger.entries
    assert again.starts == [31.5]
    assert again.commands == ["check --scale quick", "check"]
    assert again.spent_seconds == 68.0
    assert again.data("1.facts")["rows"][0]["value"] == "H200"
    assert again.data("3.eager") == {}
    assert again.entries["3.eager"].attempts == 1
    other = tmp_path / "other"
    other.mkdir()
    ledger = Ledger.load(other, SUBJECT)
    ledger.failed("3.eager", 5.0, "x")
    ledger.failed("3.eager", 5.0, "y")
    assert ledger.entries["3.eager"].attempts == 2
    for args, attempts in ((), 2), (("--enforce-eager",), 0):
        again = Ledger.load(other, SUBJECT)
        again.try_by("check", args)
        assert again.entries["3.eager"].attempts == attempts
    again.failed("3.eager", 5.0, "z")
    assert Ledger.load(other, SUBJECT).entries["3.eager"].engine_args == args
    ledger.done("3.eager", 5.0, {})
    assert ledger.entries["3.eager"].state is State.DONE


def test_what_is_another_s_or_no_checkpoint_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / CHECKPOINT
    Ledger.load(tmp_path, SUBJECT).done("1.facts", 1.0, {})
    before = file.read_bytes()
    with pytest.raises(ConflictError, match=r"vllm 0\.22\.0"):
        Ledger.load(tmp_path, Subject("h200-141gb", "simulated", "fake"))
    assert file.read_bytes() == before
    for text in ("", "{}", "[]", '{"schema": 9}', '{"schema": 3, "subject": {}}', '{"schema": 3,'):
        file.write_text(text)
        with pytest.raises(InputError) as caught:
            Ledger.load(tmp_path, SUBJECT)
        assert caught.value.hint
        assert file.read_text() == text
    file.write_bytes(before.replace(b'"schema": 3', b'"schema": 2'))
    with pytest.raises(InputError, match=r"schema 2, not 3: its .* do not say by which command"):
        published(tmp_path, tmp_path)


def test_two_runs_on_one_folder_are_refused(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(ConflictError), locked(tmp_path):
            pytest.fail("both hold it")
    with locked(tmp_path):
        pass
    other = tmp_path / "other"
    (other / "lock").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be written") as refused, locked(other):
        pytest.fail("it takes no files")
    assert "--out" in refused.value.hint


RUN = Run("2026-01-01T00:00:00+00:00", 540.0, 12.0, ("1.facts",))


def test_what_was_not_reached_and_what_failed_is_said(tmp_path: Path) -> None:
    ledger = Ledger.load(tmp_path, SUBJECT)
    ledger.done("1.facts", 1.0, {"rows": [{"fact": "GPU", "value": "A|H200"}]})
    ledger.failed("1.footprint", 1.0, "no memory\nmore lines")
    trials = (Trial("1.facts"), Trial("1.footprint"))
    missed = {"2.opt-125m": "needs 300 s"}
    parts = sections(ledger, [(1, "Discovery", trials)], missed, RUN)
    text = markdown(parts)
    for words in ("| 1 | Discovery | 1 of 2 |", "1.footprint: failed: no memory",
                  "| 2.opt-125m | needs 300 s |", "A\\|H200"):  # fmt: skip
        assert words in text
    assert "more lines" not in text
    assert "<td>A|H200</td>" in page(parts)
    assert "<td>&lt;b&gt;</td>" in page([Section("x", rows=({"a": "<b>"},))])


def test_results_of_a_gpu_are_published_and_replaced_by_later_ones(tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "docs" / "benchmarks.md"
    (out / "profiles").mkdir(parents=True)
    page.parent.mkdir()
    page.write_text("# P\n\n## On a GPU\n\nHow to. No GPU has run it yet.\n\n## Next\n\nMore.\n")
    profile = out / "profiles" / "opt-125m.json"
    profile.write_text("{}")
    ledger = Ledger.load(out, SUBJECT)
    ledger.command = "check --scale quick --budget 360"
    ledger.done("1.facts", 1.0, {"rows": [{"fact": "driver", "value": "580.1"}]})
    with pytest.raises(ProfileError):
        published(out, tmp_path)
    assert not (tmp_path / "profiles").exists()
    profile.write_text(to_json(measured_profile()))
    for rate in (11.0, 22.0):
        ledger.done("2.opt-125m", 1.0, {"rows": [{"batch": 8, "output tokens/s": rate}]})
        assert published(out, tmp_path) == [
            str(tmp_path / "profiles" / "h200-141gb" / "opt-125m.json"),
            str(page),
            "Next: make docs",
        ]
        text = page.read_text()
        assert f"| 8 | {rate:g} |" in text
        assert text.index("How to.") < text.index("### h200-141gb") < text.index("## Next")
    assert not any(old in text for old in ("| 8 | 11 |", "No GPU has"))
    assert "\n$ check --scale quick --budget 360\n" in text
    assert text.count("### h200-141gb, vllm 0.22.0, driver 580.1\n") == 1
    page.write_text("# Pages\n")
    with pytest.raises(InputError, match="no heading"):
        published(out, tmp_path)
    with pytest.raises(InputError, match="no checkpoint"):
        published(tmp_path, tmp_path)
