"""Numbers that decide say where they come from: a bench, a page, a paper, or a choice."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.structure.imports import PACKAGE, ROOT, parsed

ROOMS = ("core", "planner", "controller", "proxy", "profiler", "engines", "advise", "simulated")
"""Rooms that decide. Elsewhere numbers are formats, sizes of displays and limits of fields."""
SOURCE = re.compile(
    r"bench\.\w|docs/|chosen|guess|assum|arithmetic|definition|paper|datasheet|vLLM|OpenAI|NVIDIA"
    r"|standard (value|normal)|\(\w+,? \d{4}\)",
    re.IGNORECASE,
)
SECONDS = re.compile("SECONDS")
"""Time limits and pauses need a docstring with the reason; those of `DECIDING`, a source too."""
DECIDING = re.compile("HALF_LIFE|RETRY|PAUSE")
ROUNDING = 2e-5
"""A number this close to 0 or 1 is slack for rounding, and above its inverse it means no limit."""
BENCH = re.compile(r"(?:`|python -m )bench((?:\.[a-z_]+)+)")
DECISION = re.compile(r"docs/(decisions/\d{4}|[a-z-]+\.md)")


def constants(source: str) -> Iterator[tuple[str, ast.expr, str]]:
    """Yield name, value and docstring; a docstring also speaks for the constants right above."""
    waiting: list[tuple[str, ast.expr]] = []
    end = 0
    for node in parsed(source).body:
        if node.lineno > end + 1:
            yield from ((*constant, "") for constant in waiting)
            waiting = []
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield from ((*constant, text) for constant in waiting)
                waiting = []
            case (
                ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                | ast.Assign(targets=[ast.Name(id=name)], value=value)
            ) if name.isupper():
                waiting.append((name, value))
        end = node.end_lineno or node.lineno
    yield from ((*constant, "") for constant in waiting)


def decides(value: ast.expr) -> bool:
    """Whether a value is a fraction, and not one for rounding or for no limit at all."""
    if any(isinstance(part, ast.Name | ast.Call | ast.Attribute) for part in ast.walk(value)):
        return False
    number = eval(compile(ast.Expression(value), "", "eval"))
    return isinstance(number, float) and not (
        abs(number) < ROUNDING or abs(number - 1) < ROUNDING or abs(number) > 1 / ROUNDING
    )


def without_source(source: str) -> list[str]:
    """Return what the constants of a module do not say, or say of a bench that is gone."""
    wrong = [f"{gone} is no bench" for gone in BENCH.findall(source) if not _is_bench(gone)]
    wrong += [
        f"{page} is no page"
        for page in DECISION.findall(source)
        if not list((ROOT / "docs").glob(f"{page}*"))
    ]
    for name, value, text in constants(source):
        if not decides(value):
            continue
        if not text:
            wrong.append(f"{name} has no docstring")
        elif not SOURCE.search(text) and (not SECONDS.search(name) or DECIDING.search(name)):
            wrong.append(f"{name} does not say where its value comes from")
    return wrong


def _is_bench(dotted: str) -> bool:
    path = ROOT.joinpath("bench", *dotted.strip(".").split("."))
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def test_a_number_that_decides_names_its_source() -> None:
    files = (path for room in ROOMS for path in (ROOT / PACKAGE / room).rglob("*.py"))
    wrong = {path: said for path in files if (said := without_source(path.read_text("utf-8")))}
    assert not wrong, "\n".join(f"{path}: {said}" for path, said in wrong.items())


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("SHARE = 0.3", "no docstring"),
        ('SHARE = 0.3\n\nOTHER = 0.5\n"""Chosen."""', "SHARE has no docstring"),
        ('SHARE = 0.3\n"""Share of the time."""', "where its value comes from"),
        ('RETRY_SECONDS = 2.0\n"""First pause."""', "where its value comes from"),
        ('SHARE = 0.3\n"""Set by `python -m bench.planner.gone`."""', ".planner.gone is no bench"),
        ('SHARE = 0.3\n"""Measured: docs/decisions/9999."""', "is no page"),
    ],
)  # fmt: skip
def test_a_wrong_constant_is_refused(source: str, fault: str) -> None:
    (said,) = without_source(source)
    assert fault in said


@pytest.mark.parametrize(
    "source",
    [
        'SHARE = 1 / 4\n"""Share of the time. Chosen, not measured."""',
        'LOW = 0.2\nHIGH = 0.8\n"""Both are chosen."""',
        'LIMIT_SECONDS = 5.0\n"""A look takes milliseconds."""',
        "SLACK = 1e-9",
        "MOST = 12",
    ],
)
def test_a_constant_with_its_source_and_one_that_decides_nothing_pass(source: str) -> None:
    assert not without_source(source)
