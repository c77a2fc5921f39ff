"""Wrong versions compile, differ in one place, keep their names, and are refused by tests."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutations.__main__ import rules
from tests.mutations.operators import mutations, spans
from tests.mutations.refusal import ROOT

SOURCE = '''"""Toy."""

LIMIT = 3


def may(count: int, free: int = 1, *, late: bool = False) -> bool:
    """Whether."""
    if count < LIMIT and not late:
        log.info("yes %d", 7)
        return free >= count
    return max(
        count,
        free,
    ) == sorted([count + free])[0]
'''
MADE = {
    (3, "constant", "LIMIT = 4"),
    (6, "default", "def may(count: int, free: int, *, late: bool = False) -> bool:"),
    (6, "default", "def may(count: int, free: int = 1, *, late: bool) -> bool:"),
    (6, "constant", "def may(count: int, free: int = 2, *, late: bool = False) -> bool:"),
    (6, "constant", "def may(count: int, free: int = 1, *, late: bool = True) -> bool:"),
    (8, "negate", "if count >= LIMIT and not late:"),
    (8, "bound", "if count <= LIMIT and not late:"),
    (8, "and-or", "if count < LIMIT or not late:"),
    (8, "not", "if count < LIMIT and bool(late):"),
    (8, "if-true", "if True:"),
    (8, "if-false", "if False:"),
    (10, "return", "return None"),
    (10, "opposite", "return not (free >= count)"),
    (10, "negate", "return free < count"),
    (10, "bound", "return free > count"),
    (11, "return", "return (None"),
    (11, "opposite", "return not (max("),
    (11, "opposite", "return min("),
    (14, "negate", ") != sorted([count + free])[0]"),
    (14, "order", ") == sorted([count + free])[::-1][0]"),
    (14, "sign", ") == sorted([count - free])[0]"),
    (14, "constant", ") == sorted([count + free])[1]"),
}
TOY_TEST = """
from partitiond.toy import LIMIT


def test_limit() -> None:
    assert LIMIT < 4
"""


def test_each_operator_changes_one_place_and_no_line_number() -> None:
    source = SOURCE.encode()
    made = set()
    for one in mutations("partitiond/toy.py", source):
        wrong = one.applied(source).decode()
        compile(wrong, "", "exec")
        assert wrong.count("\n") == SOURCE.count("\n")
        changed = wrong.splitlines()[one.line - 1].strip()
        made.add((one.line, one.operator, changed))
    assert made == MADE


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x.count += 1", "pass"),
        ("x.count = y", "pass"),
        ("x.tell(y)", "pass"),
        ("raise ValueError(1 + 1)", "pass"),
        ("y = x[0]", "y = x[1]"),
        ("y = any(x)", "y = all(x)"),
        ("y = math.floor(x)", "y = math.ceil(x)"),
        ("y = [a for a in x if a]", "y = [a for a in x if True]"),
        ("y = a is not b", "y = a is b"),
        ("y = a not in b", "y = a in b"),
        ('y = "ü" * 2', 'y = "ü" / 2'),
        ("while a:  # a < b\n    break", "while a:  # a < b\n    pass"),
    ],
)
def test_a_statement_has_a_wrong_version(before: str, after: str) -> None:
    assert after in {
        one.applied(before.encode()).decode() for one in mutations("toy.py", before.encode())
    }


def test_rules_name_places_of_the_product() -> None:
    named: dict[str, set[str]] = {}
    for place, says in rules():
        assert says.endswith("."), says
        file, _, name = place.partition(":")
        named.setdefault(file, set()).add(name)
    gone = {file: names - spans((ROOT / file).read_bytes()).keys() for file, names in named.items()}
    assert not {file: names for file, names in gone.items() if names}


def test_what_no_test_refuses_is_told(tmp_path: Path) -> None:
    """In a tree of its own, so that only the tool and the toy are there."""
    tool = tmp_path / "tests" / "mutations"
    left_out = shutil.ignore_patterns("test_*", "__pycache__")
    shutil.copytree(Path(__file__).parent, tool, ignore=left_out)
    (tmp_path / "partitiond").mkdir()
    (tmp_path / "partitiond" / "__init__.py").touch()
    (tmp_path / "partitiond" / "toy.py").write_text(SOURCE)
    (tmp_path / "tests" / "test_toy.py").write_text(TOY_TEST)
    command = [sys.executable, "-m", "tests.mutations", "partitiond/toy.py:3-6"]
    environment = {"TMPDIR": str(tmp_path)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.stdout.splitlines()[0].endswith("tests/test_toy.py::test_limit"), ran.stderr
    assert ran.stdout.endswith("1 refused, 4 survived, 0 unasked\n")
    assert ran.returncode == 1
