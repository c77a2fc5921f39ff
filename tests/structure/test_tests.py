"""No test reads a clock or hopes: what makes a test fail on a slow machine is not written.

    python -m tests.structure.test_tests > tests/structure/speed.txt

writes how many such lines each file has that nobody has mended yet. The numbers only fall: who
mends a file writes them anew. What runs by hand (`soak`, `quarantine`) may wait and measure.
"""

import ast
import textwrap
from collections.abc import Iterator, Mapping

import pytest

from tests.structure.imports import ROOT

TESTS = ROOT / "tests"
BY_HAND = {"soak", "quarantine"}
"""Markers of tests that are run by hand."""
CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "time", "time_ns",
          "process_time", "thread_time"}  # fmt: skip
CLOCK_MODULES = {"time", "resource", "loop"}
GENEROUS_SECONDS = 20.0
"""The least that a wait has, in seconds. Chosen: no pause of a busy machine was as long."""
WAITS = {"communicate", "eventually", "get", "join", "result", "run", "timeout", "until", "wait",
         "wait_for", "wait_until"}  # fmt: skip
"""Calls with a deadline; what has none waits for as long as the test may run."""
POLLS = {"until", "wait_until", "eventually", "poll"}
"""Functions that look again and again: they may pause."""
LEAVES = (ast.Constant, ast.Name, ast.expr_context, ast.operator, ast.cmpop, ast.alias)
HELD = TESTS / "structure" / "speed.txt"


def offences(source: str) -> list[str]:
    """What a file does that depends on the machine's speed, line by line."""
    tree = ast.parse(source)
    if any(_is_by_hand(node) for node in tree.body if _marks_all(node)):
        return []
    return [f"{line}: {what}" for line, what in sorted(set(_found(tree, ())))]


def _marks_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets
    )


def _is_by_hand(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Attribute) and part.attr in BY_HAND for part in ast.walk(node))


def _found(node: ast.AST, within: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        if any(_is_by_hand(mark) for mark in node.decorator_list):
            return
        if any(_name(mark) == "timed" for mark in node.decorator_list):
            yield node.lineno, "@timed tries three times to be quick enough"
        within = (*within, node.name)
    if isinstance(node, ast.Call):
        name = _name(node.func)
        if name == "sleep" and _sleeps(node.func) and _is_more_than(node.args[:1], 0.0):
            if not POLLS.intersection(within):
                yield node.lineno, "a sleep: wait for what is to happen, or hand the loop on"
        elif name in WAITS and _short(node):
            yield node.lineno, f"{name} with less than {GENEROUS_SECONDS:g} s"
        elif name in {"bind", "create_server", "start_server"} and _fixed_port(node):
            yield node.lineno, "a fixed port: somebody else may have it"
    elif isinstance(node, ast.Assert) and any(_is_clock(part) for part in ast.walk(node.test)):
        yield node.lineno, "asserts what a clock says"
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from _measured(node)
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, LEAVES):
            yield from _found(child, within)


def _name(node: ast.expr) -> str:
    match node:
        case ast.Call():
            return _name(node.func)
        case ast.Attribute():
            return node.attr
        case ast.Name():
            return node.id
    return ""


def _sleeps(function: ast.expr) -> bool:
    match function:
        case ast.Attribute(attr="sleep", value=ast.Name(id=module)):
            return module in {"asyncio", "time"}  # a replica may sleep, too
    return isinstance(function, ast.Name) and function.id == "sleep"


def _is_more_than(given: list[ast.expr], least: float) -> bool:
    """Whether a number may be above; what is no number at all may."""
    match given:
        case [ast.Constant(value=int() | float() as value)]:
            return value > least
    return bool(given)


def _short(call: ast.Call) -> bool:
    """Whether a wait is given a number of seconds that a pause may exceed."""
    named = {word.arg: word.value for word in call.keywords}
    name = _name(call.func)
    position = {"wait_for": 1, "until": 1, "wait_until": 1, "eventually": 1, "timeout": 0,
                "result": 0, "join": 0}.get(name)  # fmt: skip
    given = [named[word] for word in ("timeout", "seconds", "timeout_seconds") if word in named]
    if position is not None and len(call.args) > position:
        given.append(call.args[position])
    return any(
        isinstance(value, ast.Constant)
        and isinstance(value.value, int | float)
        and 0 < value.value < GENEROUS_SECONDS
        for value in given
    )


def _fixed_port(call: ast.Call) -> bool:
    given = [*call.args, *(word.value for word in call.keywords if word.arg == "port")]
    ports = [value.elts[-1] if isinstance(value, ast.Tuple) else value for value in given]
    return any(isinstance(p, ast.Constant) and type(p.value) is int and p.value > 0 for p in ports)


def _is_clock(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr=name, value=module)) if name in CLOCKS:
            return isinstance(module, ast.Name) and module.id in CLOCK_MODULES
        case ast.Call(func=ast.Name(id=name)):
            return name in CLOCKS - {"time"}
    return False


def _measured(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[int, str]]:
    """Assertions on names that were made from a clock, in this function."""
    made: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if _is_measured(node.value, made):
                made |= {name for target in targets for name in _names(target)}
    for node in ast.walk(function) if made else ():
        if isinstance(node, ast.Assert) and made & _names(node.test):
            yield node.lineno, "asserts what a clock says"


def _is_measured(value: ast.expr, made: set[str]) -> bool:
    """A look at a clock, or a sum or difference of such looks; no call that was given one."""
    match value:
        case ast.BinOp():
            return _is_measured(value.left, made) or _is_measured(value.right, made)
        case ast.Name():
            return value.id in made
    return _is_clock(value)


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def found() -> dict[str, list[str]]:
    """What each file has, by its path below tests/."""
    every = {
        path.relative_to(TESTS).as_posix(): offences(path.read_text(encoding="utf-8"))
        for path in sorted(TESTS.rglob("*.py"))
        if "__pycache__" not in path.parts
    }
    return {file: lines for file, lines in every.items() if lines}


def told(now: Mapping[str, list[str]], held: Mapping[str, int]) -> list[str]:
    """What is wrong: new offences with their lines, and rows that say more than there is."""
    wrong = []
    for file in sorted(now.keys() | held.keys()):
        lines, allowed = now.get(file, []), held.get(file, 0)
        if len(lines) > allowed:
            wrong += [f"tests/{file}:{line}" for line in lines]
        elif len(lines) < allowed:
            wrong.append(f"{file} has {len(lines)} instead of {allowed}: write them anew")
    return wrong


def test_no_test_depends_on_the_speed_of_the_machine() -> None:
    rows = (line.rpartition(": ") for line in HELD.read_text(encoding="utf-8").splitlines())
    assert not told(found(), {file: int(number) for file, _, number in rows})


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("async def test_a():\n    await asyncio.sleep(0.1)", [2]),
        ("def helper():\n    time.sleep(PAUSE)", [2]),
        ("async def test_a():\n    await asyncio.sleep(0)", []),
        ("async def until(condition):\n    await asyncio.sleep(0.01)", []),
        ("async def test_a():\n    await engines.sleep(handle, 1)", []),
        ("def test_a():\n    t = time.monotonic()\n    assert time.monotonic() - t < 2", [3]),
        (
            "def test_a():\n    t = time.time()\n    took = time.time() - t\n    assert took < 1",
            [4],
        ),
        ("def test_a():\n    now = perf_counter()\n    assert f(now) == 1\n", [3]),
        ("def test_a():\n    made = fill(time.time())\n    assert made == 1\n", []),
        ("@timed\nasync def test_a():\n    pass", [2]),
        ("async def test_a():\n    await asyncio.wait_for(done.wait(), 2)", [2]),
        ("async def test_a():\n    async with asyncio.timeout(60):\n        pass", []),
        ("def test_a():\n    thread.join(timeout=5)", [2]),
        ("def test_a():\n    made.bind(('127.0.0.1', 8080))", [2]),
        ("def test_a():\n    made.bind(('127.0.0.1', 0))", []),
        ("@pytest.mark.soak\ndef test_a():\n    time.sleep(1)", []),
        ("@pytest.mark.quarantine(cause='x', guards='y')\ndef test_a():\n    time.sleep(1)", []),
        ("@pytest.mark.full\ndef test_a():\n    time.sleep(1)", [3]),
        ("pytestmark = [pytest.mark.soak]\ndef helper():\n    time.sleep(1)", []),
    ],
)
def test_what_depends_on_speed_is_refused(source: str, lines: list[int]) -> None:
    assert [int(line.partition(":")[0]) for line in offences(textwrap.dedent(source))] == lines


def test_the_number_of_a_file_only_falls() -> None:
    now = {"a.py": ["3: a sleep", "9: a sleep"]}
    assert told(now, {"a.py": 2}) == []
    assert told(now, {"a.py": 1}) == ["tests/a.py:3: a sleep", "tests/a.py:9: a sleep"]
    assert told(now, {}) == ["tests/a.py:3: a sleep", "tests/a.py:9: a sleep"]
    assert told(now, {"a.py": 3}) == ["a.py has 2 instead of 3: write them anew"]
    assert told({}, {"gone.py": 1}) == ["gone.py has 0 instead of 1: write them anew"]


if __name__ == "__main__":
    for file, lines in found().items():
        print(f"{file}: {len(lines)}")
