"""No decision reads a sentence: what a message says for people is a field beside it as well."""

import ast

from tests.structure.imports import ROOT, parsed

PACKAGE = ROOT / "partitiond"
DECIDE = ("controller", "core", "hosts", "store")
MESSAGES = frozenset(
    {"diagnosis", "error", "last_error", "message", "note", "problem", "reason", "what", "words"}
)
"""Attributes that hold sentences for people."""
WORDING = {"core/errors.py", "core/hardware/host_state.py", "core/replica/convergence.py"}
"""Their looks decide how two sentences are joined, and nothing else."""
PARTS = {
    "endswith", "find", "index", "partition", "removeprefix", "removesuffix", "rpartition", "split",
    "startswith",
}  # fmt: skip


def sentences_read(text: str) -> list[int]:
    """Lines that look into a sentence for a part of it."""

    def is_message(node: ast.expr) -> bool:
        if isinstance(node, ast.Call):
            return isinstance(node.func, ast.Name) and node.func.id == "str"
        if isinstance(node, ast.Name):
            return node.id in MESSAGES - {"what"}
        return isinstance(node, ast.Attribute) and node.attr in MESSAGES

    found = []
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in PARTS and is_message(node.func.value):
                found.append(node.lineno)
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            found += [node.lineno] * is_message(node.comparators[0])
    return sorted(found)


def test_no_decision_looks_into_a_message() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for room in DECIDE
        for path in sorted((PACKAGE / room).rglob("*.py"))
        if str(path.relative_to(PACKAGE)) not in WORDING
        for line in sentences_read(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_look_into_a_message_is_seen_and_one_into_a_name_is_not() -> None:
    assert sentences_read("job.error.startswith(GONE)") == [1]
    assert sentences_read("if 'withdrawn' in job.error: pass") == [1]
    assert sentences_read("[note for note in notes if note.startswith(SOURCE)]") == [1]
    assert sentences_read("str(error).partition(':')") == [1]
    assert sentences_read("device.id.startswith(text) or job.error == other.error") == []
