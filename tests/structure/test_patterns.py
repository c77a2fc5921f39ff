"""No regular expression of the product takes more than linear time, whatever text it meets.

Foreign text (an engine's log, a peer's message, a file) may be written to be slow, and no thread of
the process runs while `re` works. A search that fails tries each way to share the text among
unbounded repeats: so of two that can match the same characters, something has to stand between that
these characters don't match. A search without an anchor begins with such a repeat of any character.
"""

import ast
import itertools
import re
import re._compiler  # type: ignore[import-not-found]
import re._constants as c  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Iterator
from typing import Any

import pytest

from partitiond.devices.nvml import hardware_names
from tests.structure.imports import modules, parsed

SEARCHES = frozenset({"findall", "finditer", "search", "split", "sub"})
METHODS = SEARCHES | {"fullmatch", "match"}
CHARACTERS = [chr(n) for n in range(256)]
"""Those beyond are in the classes (`\\w`, `\\s`, a negated one) that some of these are in."""
FAILS: frozenset[str] = frozenset("fails")
"""Stands for an anchor or an assertion: it takes no character, and may refuse."""

Items = tuple[tuple[str, frozenset[str]], ...]
"""A way through a pattern: ("one" or "many", the characters); ("anchor", none)."""


def taken(op: Any, value: Any, flags: int) -> frozenset[str]:
    state = parser.State()
    state.flags = flags
    compiled = re._compiler.compile(parser.SubPattern(state, [(op, value)]), flags)
    return frozenset(filter(compiled.fullmatch, CHARACTERS))


def ways(items: Any, flags: int) -> list[Items]:
    """All ways through a part of a pattern. Raises ValueError for a repeat that is slow itself."""
    found: list[Items] = [()]
    for op, value in items:
        found = [(*before, *way) for before in found for way in ways_of(op, value, flags)]
    return found


def ways_of(op: Any, value: Any, flags: int) -> list[Items]:
    if op in (c.LITERAL, c.NOT_LITERAL, c.ANY, c.IN):
        return [(("one", taken(op, value, flags)),)]
    if op is c.SUBPATTERN:
        return ways(value[3], (flags | value[1]) & ~value[2])
    if op is c.BRANCH:
        return [way for branch in value[1] for way in ways(branch, flags)]
    if op in (c.MAX_REPEAT, c.MIN_REPEAT):
        least, most, body = value
        inside = ways(body, flags)
        if most is not c.MAXREPEAT:
            return inside + [()] * (least == 0)
        firsts = [way[0][1] for way in inside]
        if any(one & other for one, other in itertools.combinations(firsts, 2)):
            raise ValueError("what is repeated begins alike in two ways")
        for one, other in itertools.product(inside, repeat=2):
            if any(kind == "many" for kind, _ in one) and is_slow(
                (*one, *other, ("anchor", FAILS))
            ):
                raise ValueError("a repeat is repeated")
        many = ("many", frozenset().union(*(chars for way in inside for _, chars in way)))
        return [(*way, many) for way in inside] if least else [(many,)]
    if op in (c.ASSERT, c.ASSERT_NOT) and any(
        is_slow((*way, ("anchor", FAILS))) for way in ways(value[1], flags)
    ):
        raise ValueError("an assertion repeats")
    return [(("anchor", FAILS),)]  # a place, an assertion, a group's text again


def is_slow(way: Items) -> bool:
    for (first, (kind, chars)), (second, (other, more)) in itertools.combinations(
        enumerate(way), 2
    ):
        between = [held for what, held in way[first + 1 : second] if what == "one"]
        both = chars & more
        fails = any(what != "many" for what, _ in way[second + 1 :])
        if kind == other == "many" and both and fails and all(both & held for held in between):
            return True
    return False


def slow(pattern: str | bytes, methods: frozenset[str], flags: int = 0) -> str:
    """Why a pattern may take more than linear time with these methods; empty if it does not."""
    tree = parser.parse(pattern, flags)
    begins = tree.data[0] if tree.data else None
    anchored = begins in ((c.AT, c.AT_BEGINNING), (c.AT, c.AT_BEGINNING_STRING))
    try:
        found = ways(tree, tree.state.flags)
    except ValueError as error:
        return str(error)
    before: Items = (("many", frozenset(CHARACTERS)),) * (
        methods & SEARCHES != set() and not anchored
    )
    after: Items = (("anchor", FAILS),) * ("fullmatch" in methods)
    if any(is_slow((*before, *way, *after)) for way in found):
        return "two unbounded repeats share characters"
    return ""


def text_of(node: ast.expr) -> str | bytes | None:
    """A pattern as the source has it; what is put into it is taken for a letter."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (one.value if isinstance(one, ast.Constant) else "x" for one in node.values)
        return "".join(map(str, parts))
    return None


def patterns(text: str) -> Iterator[tuple[int, str | bytes | None, str]]:
    """Line, pattern, and the name it is kept by or the method that it is used with."""
    if "import re\n" not in text:
        return
    named = {
        node.value: (node.targets[0] if isinstance(node, ast.Assign) else node.target)
        for node in ast.walk(parsed(text))
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
    }
    for node in ast.walk(parsed(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if not isinstance(node.func.value, ast.Name) or node.func.value.id != "re":
            continue
        if node.func.attr in METHODS | {"compile"}:
            name = named.get(node)
            kept = name.id if isinstance(name, ast.Name) else ""
            used = kept if node.func.attr == "compile" else node.func.attr
            yield node.lineno, text_of(node.args[0]), used


ELSEWHERE = {
    "partitiond.devices.nvml.hardware_names": [one for one, _ in hardware_names._MODELS],
    # A config's own patterns, of which the number of ways is bounded.
    "partitiond.core.model.families.quantised": [],
}
"""Patterns that are no constant where they are used."""


def test_no_pattern_of_the_product_can_be_slow() -> None:
    sources = {name: path.read_text(encoding="utf-8") for name, path in modules().items()}
    uses: dict[str, set[str]] = {}
    for text in sources.values():
        for name, method in re.findall(r"\b([A-Za-z_]+)\.([a-z]+)\b", text):
            uses.setdefault(name, set()).add(method)
    found = {}
    for module, text in sources.items():
        assert not re.search("from re import|import re as", text)
        for line, pattern, used in patterns(text):
            methods = {used} & METHODS or uses.get(used, set()) & METHODS or METHODS
            meant = ELSEWHERE.get(module, ["(.*)*"]) if pattern is None else [pattern]
            if why := [*filter(None, (slow(one, frozenset(methods)) for one in meant))]:
                found[f"{module}:{line}"] = (meant, sorted(methods), why)
    assert found == {}


@pytest.mark.parametrize(
    ("pattern", "method", "is_slow"),
    [
        (r"KV cache.*needed.*larger", "search", True),
        (r"KV cache.*needed", "search", True),
        (r"KV cache.*needed", "match", False),
        (r"(\d+)%", "search", True),
        (r"(\d{1,3})%", "search", False),
        (r"^(\d+)%", "search", False),
        (r"\s*(\d+)?\s*x", "match", True),
        (r"\s*\d+\s*x", "match", False),
        (r"\s*\d+\s*", "fullmatch", False),
        (r"\w+\d+", "match", False),
        (r"\w+\d+", "fullmatch", True),
        (r"(\w+)*x", "match", True),
        (r"(?:a|ab)*x", "match", True),
        (r"(?:\w+,)*x", "match", False),
        (r"(?=.*a.*b)c", "match", True),
    ],
)
def test_what_may_be_tried_in_many_ways_is_slow(pattern: str, method: str, is_slow: bool) -> None:
    assert bool(slow(pattern, frozenset({method}))) == is_slow
