"""Test files are compiled ahead, once."""

from pathlib import Path

from tests.compiled import compile_files


def test_a_file_is_compiled_once_and_again_when_it_changed(tmp_path: Path) -> None:
    file = tmp_path / "test_toy.py"
    file.write_text("def test_one():\n    assert 1 == 1\n")
    assert [compile_files([str(file)]) for _ in range(2)] == [1, 0]
    file.write_text("def test_one():\n    assert 10 == 10\n")
    assert compile_files([str(file)]) == 1
