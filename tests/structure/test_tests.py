"""No test reads a clock or hopes: what makes a test fail on a slow machine is not written.

What runs by hand (`soak`, `quarantine`, the tools of `tests/soak`) may wait and measure, and so may
what runs on virtual time: there a pause costs nothing, and no machine is too slow.
"""

import ast
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.proxy.virtual import REAL_UNLESS_ASKED
from tests.structure.imports import ROOT

TESTS = ROOT / "tests"
BY_HAND = {"soak", "quarantine"}
"""Markers of tests that are run by hand."""
CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "time", "time_ns",
          "process_time", "thread_time"}  # fmt: skip
CLOCK_MODULES = {"time", "resource", "loop"}
GENEROUS_SECONDS = 60.0
"""The least that a wait has, in seconds. Chosen: no pause of a busy machine was as long."""
WAITS = {"communicate", "eventually", "get", "join", "result", "run", "timeout", "until", "wait",
         "wait_for", "wait_until"}  # fmt: skip
"""Calls with a deadline; what has none waits for as long as the test may run."""
PAUSES = {"until", "wait_for", "pace", "wait_until_free"}
"""Functions that look again and again, and the pace of a peer: they alone may pause."""
POSITIONS = {"wait_for": 1, "timeout": 0, "result": 0, "join": 0}
"""Where such a call has its seconds, unless by name."""
LEAVES = (ast.Constant, ast.Name, ast.expr_context, ast.operator, ast.cmpop, ast.alias)
BY_HAND_FOLDER = TESTS / "soak"


def offences(source: str, *, virtual: bool = False) -> list[str]:
    """What a file does that depends on the machine's speed, line by line.

    Args:
        source: of the file.
        virtual: whether its asynchronous functions run on virtual time where they say nothing.
    """
    tree = ast.parse(source)
    marks = [node for node in tree.body if _marks_all(node)]
    if any(_is_by_hand(node) for node in marks):
        return []
    for node in marks:
        virtual = _is_virtual(node, virtual)
    numbers = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        and isinstance(node.targets[0], ast.Name)
    }  # fmt: skip
    found = set(_Offences(numbers, virtual).found(tree, (), virtual=False))
    return [f"{line}: {what}" for line, what in sorted(found)]


def is_virtual(path: Path) -> bool:
    """Whether the tests of a file run on virtual time where they say nothing."""
    folders = path.relative_to(TESTS).parents[:-1]
    return path.parent.name not in REAL_UNLESS_ASKED and any(
        "pytest_asyncio_loop_factories" in (TESTS / one / "conftest.py").read_text()
        for one in folders
        if (TESTS / one / "conftest.py").exists()
    )


def _is_virtual(marks: ast.AST, before: bool) -> bool:
    """Whether what has these marks runs on virtual time."""
    said = {part.id for part in ast.walk(marks) if isinstance(part, ast.Name)}
    return (before or "virtual_time" in said) and "real_time" not in said


def _marks_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets
    )


def _is_by_hand(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Attribute) and part.attr in BY_HAND for part in ast.walk(node))


class _Offences:
    """Looks through a file.

    Args:
        numbers: its constants, some of them seconds.
        virtual: whether its asynchronous functions run on virtual time where they say nothing.
    """

    def __init__(self, numbers: Mapping[str, object], virtual: bool) -> None:
        self.numbers = numbers
        self.virtual = virtual

    def found(
        self, node: ast.AST, within: tuple[str, ...], *, virtual: bool
    ) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if any(_is_by_hand(mark) for mark in node.decorator_list):
                return
            if any(_name(mark) == "timed" for mark in node.decorator_list):
                yield node.lineno, "@timed tries three times to be quick enough"
            within = (*within, node.name)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if isinstance(node, ast.AsyncFunctionDef):
                virtual = self.virtual
                for mark in node.decorator_list:
                    virtual = _is_virtual(mark, virtual)
                virtual = virtual and "make_process" not in {one.arg for one in node.args.args}
            if not virtual:
                yield from _measured(node)
        if not virtual:
            yield from self._here(node, within)
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, LEAVES):
                yield from self.found(child, within, virtual=virtual)

    def _here(self, node: ast.AST, within: tuple[str, ...]) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.Assert) and any(_is_clock(part) for part in ast.walk(node.test)):
            yield node.lineno, "asserts what a clock says"
        if not isinstance(node, ast.Call):
            return
        name = _name(node.func)
        if name == "pace" and any(one.startswith("test_") for one in within):
            yield node.lineno, "the pace of a peer is no pause of a test"
        elif name == "sleep" and _sleeps(node.func) and _is_more_than(node.args[:1], 1e-6):
            if not PAUSES.intersection(within):
                yield node.lineno, "a sleep: wait for what is to happen, or hand the loop on"
        elif name in WAITS and self._short(node):
            yield node.lineno, f"{name} with less than {GENEROUS_SECONDS:g} s"
        elif name in {"bind", "create_server", "start_server"} and _fixed_port(node):
            yield node.lineno, "a fixed port: somebody else may have it"

    def _short(self, call: ast.Call) -> bool:
        """Whether a wait is given a number of seconds that a pause may exceed."""
        named = {word.arg: word.value for word in call.keywords}
        name = _name(call.func)
        words = ("timeout",) if name == "run" else ("timeout", "seconds", "timeout_seconds")
        given = [named[word] for word in words if word in named]
        position = POSITIONS.get(name)
        if position is not None and len(call.args) > position:
            given.append(call.args[position])
        values = [
            one.value if isinstance(one, ast.Constant) else self.numbers.get(_name(one))
            for one in given
        ]
        return any(isinstance(v, int | float) and 0 < v < GENEROUS_SECONDS for v in values)


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


def _fixed_port(call: ast.Call) -> bool:
    given = [*call.args, *(word.value for word in call.keywords if word.arg == "port")]
    ports = [value.elts[-1] if isinstance(value, ast.Tuple) else value for value in given]
    return any(isinstance(p, ast.Constant) and type(p.value) is int and p.value > 0 for p in ports)


def _is_clock(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr=name, value=ast.Name(id=module))) if name in CLOCKS:
            return module in CLOCK_MODULES
        case ast.Call(func=ast.Attribute(attr="time", value=ast.Call(func=of))):
            return _name(of) in {"get_running_loop", "get_event_loop"}
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


def test_no_test_depends_on_the_speed_of_the_machine() -> None:
    found = [
        f"{path.relative_to(TESTS.parent)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        if BY_HAND_FOLDER not in path.parents
        for line in offences(path.read_text(encoding="utf-8"), virtual=is_virtual(path))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("async def test_a():\n    await asyncio.sleep(0.1)", [2]),
        ("def helper():\n    time.sleep(PAUSE)", [2]),
        ("async def test_a():\n    await pace(1)", [2]),
        ("async def _answer():\n    await pace(1)", []),
        ("LIMIT = 2\nasync def test_a():\n    await asyncio.wait_for(done.wait(), LIMIT)", [3]),
        ("def test_a():\n    assert asyncio.get_running_loop().time() < 2", [2]),
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
        ("async def test_a():\n    await asyncio.wait_for(done.wait(), 59)", [2]),
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


PAUSED = "async def test_a():\n    await asyncio.sleep(9)\n    assert time.monotonic() == 9"


@pytest.mark.parametrize(
    ("source", "virtual", "lines"),
    [
        (PAUSED, True, []),
        (PAUSED, False, [2, 3]),
        (f"pytestmark = virtual_time\n{PAUSED}", False, []),
        (f"@virtual_time\n{PAUSED}", False, []),
        (f"pytestmark = real_time\n{PAUSED}", True, [3, 4]),
        (f"@real_time\n{PAUSED}", True, [3, 4]),
        (PAUSED.replace("()", "(make_process)", 1), True, [2, 3]),
        ("def test_a():\n    time.sleep(9)", True, [2]),
    ],
)
def test_on_virtual_time_a_test_may_pause(source: str, virtual: bool, lines: list[int]) -> None:
    assert [int(line.partition(":")[0]) for line in offences(source, virtual=virtual)] == lines


def test_it_is_known_whose_time_is_virtual() -> None:
    for name, virtual in (
        ("proxy/test_relay.py", True), ("proxy/dispatch/test_live.py", True),
        ("proxy/peers/test_hops.py", False), ("core/test_sharing.py", False),
    ):  # fmt: skip
        assert is_virtual(TESTS / name) is virtual
