"""The wrong versions of a source: each differs in one place and keeps all line numbers."""

import ast
import dataclasses
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

OPPOSITES: Final = {"min": "max", "any": "all", "floor": "ceil"}
NAMES: Final = OPPOSITES | {new: old for old, new in OPPOSITES.items()}
BOUNDS: Final = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
COMPARED: Final[dict[type[ast.cmpop], tuple[str, str]]] = {
    ast.Lt: ("<", ">="), ast.LtE: ("<=", ">"), ast.Gt: (">", "<="), ast.GtE: (">=", "<"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
}  # fmt: skip
SIGNS: Final[dict[type[ast.operator], tuple[str, str]]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"), ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"),
}  # fmt: skip
MAY_NOT_COMPILE: Final = {"default", "not", "opposite", "order", "return"}
LOGGERS: Final = {"log", "_log", "logger", "_logger", "LOG", "_LOG", "warnings"}
"""What is logged is for people: no test has to refuse that it is not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mutation:
    """One wrong version.

    Attributes:
        file: from the root of the tree.
        line: where the change stands.
        operator: what was done.
        index: of those that the operator makes of this line.
        mark: a hash of the line, by which it is found again when others moved it.
        start: offset of the first byte that is replaced.
        end: offset behind the last one.
        new: what stands there instead.
    """

    file: str
    line: int
    operator: str
    index: int
    mark: str
    start: int
    end: int
    new: str

    @property
    def id(self) -> str:
        """A name that stays the same while the line does."""
        return f"{self.file}:{self.line}:{self.operator}:{self.index}:{self.mark}"

    def applied(self, source: bytes) -> bytes:
        """The wrong source."""
        old = source[self.start : self.end]
        new = self.new.encode()
        if lost := old.count(b"\n") - new.count(b"\n"):
            new = (
                b"(" + new + b"\n" * lost + b")"
                if self.new not in {"", "pass"}
                else new + b"\n" * lost
            )
        return source[: self.start] + new + source[self.end :]

    def told(self, source: bytes) -> str:
        """The line before and after."""
        old, new = (text.splitlines()[self.line - 1] for text in (source, self.applied(source)))
        return f"{old.decode().strip()}  ->  {new.decode().strip()}"


@functools.cache
def mutations(file: str, source: bytes) -> tuple[Mutation, ...]:
    """All wrong versions of a source, by line."""
    place = _Places(source)
    edits = sorted(
        {
            (start, end, operator, new)
            for node in _decisive(ast.parse(source))
            for operator, start, end, new in _edits(node, place)
        }
    )
    made: list[Mutation] = []
    number: Counter[tuple[int, str]] = Counter()
    lines = source.splitlines()
    for start, end, operator, new in edits:
        line = source.count(b"\n", 0, start) + 1
        mark = hashlib.sha256(lines[line - 1].strip()).hexdigest()[:6]
        one = Mutation(file, line, operator, number[line, operator], mark, start, end, new)
        if operator not in MAY_NOT_COMPILE or _compiles(one.applied(source)):
            made.append(one)
            number[line, operator] += 1
    return tuple(made)


def found_again(name: str, root: Path) -> Mutation | None:
    """The mutation of an id in today's tree, where its line may have moved; None if it is gone."""
    file, line, operator, index, mark = name.split(":")
    path = root / file
    if not path.exists():
        return None
    same = [
        one
        for one in mutations(file, path.read_bytes())
        if (one.operator, one.index, one.mark) == (operator, int(index), mark)
    ]
    return min(same, key=lambda one: abs(one.line - int(line)), default=None)


def spans(source: bytes) -> dict[str, tuple[int, int]]:
    """First and last line of each function, class and constant by name; of the whole by ``""``."""
    found = {"": (1, source.count(b"\n") + 1)}

    def visit(node: ast.AST, above: str) -> None:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    found[f"{above}{child.name}"] = child.lineno, child.end_lineno or 0
                    visit(child, f"{above}{child.name}.")
                case (
                    ast.Assign(targets=[ast.Name(id=name)])
                    | ast.AnnAssign(target=ast.Name(id=name))
                ) if isinstance(node, ast.Module | ast.ClassDef):
                    found[f"{above}{name}"] = child.lineno, child.end_lineno or 0
                case _:
                    visit(child, above)

    visit(ast.parse(source), "")
    return found


class _Places:
    """Offsets in bytes of the nodes of a source."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self._begins = [0]
        for line in source.splitlines(keepends=True):
            self._begins.append(self._begins[-1] + len(line))

    def of(self, node: ast.expr | ast.stmt | ast.arg) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._begins[node.lineno - 1] + node.col_offset
        return start, self._begins[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr) -> str:
        start, end = self.of(node)
        return self.source[start:end].decode()

    def between(self, left: ast.expr, right: ast.expr, sign: str) -> tuple[int, int] | None:
        start = self.of(left)[1]
        gap = self.source[start : self.of(right)[0]].decode()
        words = re.escape(sign).replace(r"\ ", r"\s+")
        if sign[0].isalpha():
            words = rf"\b{words}\b"
        match = re.search(words, re.sub("#.*", lambda note: " " * len(note[0]), gap))
        if match is None:
            return None
        return start + len(gap[: match.start()].encode()), start + len(gap[: match.end()].encode())


def _decisive(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but types, docstrings, decorators, what is raised, and what is logged."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "type_params", "exc", "bases"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            match child:
                case ast.Expr(value=ast.Constant()) | ast.JoinedStr():
                    continue
                case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=log)))) if (
                    log in LOGGERS
                ):
                    continue
                case ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.Assert():
                    continue
                case ast.AST():
                    yield from _decisive(child)


def _edits(node: ast.AST, place: _Places) -> Iterator[tuple[str, int, int, str]]:
    match node:
        case ast.Compare():
            sides = [node.left, *node.comparators]
            for left, sign, right in zip(sides, node.ops, sides[1:], strict=False):
                old, new = COMPARED[type(sign)]
                if at := place.between(left, right, old):
                    yield "negate", *at, new
                    if type(sign) in BOUNDS:
                        yield "bound", *at, BOUNDS[type(sign)]
        case ast.BinOp() if type(node.op) in SIGNS:
            old, new = SIGNS[type(node.op)]
            if at := place.between(node.left, node.right, old):
                yield "sign", *at, new
        case ast.BoolOp():
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                if at := place.between(left, right, old):
                    yield "and-or", *at, new
        case ast.UnaryOp(op=ast.Not()):
            yield "not", *place.of(node), f"bool({place.text(node.operand)})"
        case ast.Constant(value=bool(value)):
            yield "constant", *place.of(node), str(not value)
        case ast.Constant(value=int(number)):
            yield "constant", *place.of(node), str(number + 1)
        case ast.Constant(value=float(number)):
            yield "constant", *place.of(node), repr(number * 2 if number else 1.0)
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield "return", *place.of(value), "None"
            if isinstance(value, ast.Compare | ast.BoolOp):
                yield "opposite", *place.of(value), f"not ({place.text(value)})"
        case ast.AugAssign() | ast.Delete() | ast.Raise() | ast.Break() | ast.Continue():
            yield "drop", *place.of(node), "pass"
        case ast.Expr(value=ast.Call() | ast.Await()):
            yield "drop", *place.of(node), "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "drop", *place.of(node), "pass"
        case ast.If(test=test) | ast.IfExp(test=test):
            yield "if-true", *place.of(test), "True"
            yield "if-false", *place.of(test), "False"
        case ast.comprehension(ifs=tests):
            for test in tests:
                yield "if-true", *place.of(test), "True"
        case ast.Call(func=ast.Name(id=name) as called) if name in NAMES:
            yield "opposite", *place.of(called), NAMES[name]
        case ast.Call(func=ast.Attribute(value=ast.Name(id="math"), attr=name) as called) if (
            name in NAMES
        ):
            yield "opposite", *place.of(called), f"math.{NAMES[name]}"
        case ast.Call(func=ast.Name(id="sorted")):
            yield "order", *place.of(node), f"{place.text(node)}[::-1]"
        case ast.arguments():
            given = [*zip(node.kwonlyargs, node.kw_defaults, strict=True)]
            if node.defaults:
                given += [((node.posonlyargs + node.args)[-len(node.defaults)], node.defaults[0])]
            for argument, default in given:
                if default is not None:
                    yield "default", place.of(argument)[1], place.of(default)[1], ""


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True
