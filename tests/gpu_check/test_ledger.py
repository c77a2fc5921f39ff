"""The checkpoint loses no finished work, and takes in no foreign results."""

from pathlib import Path

import pytest

from bench.gpu_check.ledger import CHECKPOINT, Ledger, Subject, locked
from bench.gpu_check.schedule import State
from partitiond.core.errors import ConflictError, InputError

SUBJECT = Subject("h200-141gb", "vllm 0.22.0", "full")


def test_every_result_is_there_the_next_time(tmp_path: Path) -> None:
    ledger = Ledger.load(tmp_path, SUBJECT)
    ledger.starts.append(31.5)
    ledger.done("1.facts", 2.0, {"rows": [{"fact": "GPU", "value": "H200"}]})
    ledger.impossible("4.mps-2", 1.0, "no MPS")
    ledger.failed("3.eager", 5.0, "out of memory")
    ledger.cut("2.opt-125m", 60.0)
    again = Ledger.load(tmp_path, SUBJECT)
    assert again.entries == ledger.entries
    assert again.starts == [31.5]
    assert again.spent_seconds == 68.0
    assert again.data("1.facts")["rows"][0]["value"] == "H200"
    assert again.data("3.eager") == {}
    assert again.standings["3.eager"].attempts == 1


def test_a_second_failure_counts_and_a_success_ends_it(tmp_path: Path) -> None:
    ledger = Ledger.load(tmp_path, SUBJECT)
    ledger.failed("3.eager", 5.0, "x")
    ledger.failed("3.eager", 5.0, "y")
    assert ledger.standings["3.eager"].attempts == 2
    ledger.done("3.eager", 5.0, {})
    assert ledger.standings["3.eager"].state is State.DONE


def test_results_of_another_subject_are_refused_and_kept(tmp_path: Path) -> None:
    Ledger.load(tmp_path, SUBJECT).done("1.facts", 1.0, {})
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ConflictError) as caught:
        Ledger.load(tmp_path, Subject("h200-141gb", "simulated", "fake"))
    assert "vllm 0.22.0" in str(caught.value)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_what_is_no_checkpoint_is_refused_and_kept(tmp_path: Path) -> None:
    for text in (
        "",
        "{}",
        "[]",
        '{"schema": 9}',
        '{"schema": 1, "subject": {}}',
        '{"schema": 1, "subj',
    ):
        (tmp_path / CHECKPOINT).write_text(text)
        with pytest.raises(InputError) as caught:
            Ledger.load(tmp_path, SUBJECT)
        assert caught.value.hint
        assert (tmp_path / CHECKPOINT).read_text() == text


def test_two_runs_on_one_folder_are_refused(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(ConflictError), locked(tmp_path):
            pytest.fail("both hold it")
    with locked(tmp_path):
        pass


def test_a_folder_that_takes_no_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(InputError, match="cannot be written") as refused, locked(tmp_path):
        pass
    assert "--out" in refused.value.hint
