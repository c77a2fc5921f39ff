"""No event loop reads or writes files of models: their file system may hang (decision 0016)."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "partitiond"
ROOM = "models"
"""Its coroutines run in the event loop that supervises engines."""
FILE_CALLS = {
    "copytree", "disk_usage", "exists", "fsync", "ftruncate", "glob", "is_dir", "is_file",
    "iterdir", "mkdir", "mkdtemp", "open", "pread", "read_bytes", "read_text", "rename", "rglob",
    "rmtree", "stat", "unlink", "walk", "write_bytes", "write_text",
}  # fmt: skip


def name_of(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def calls_now(body: list[ast.stmt]) -> Iterator[ast.Call]:
    """Calls that the body makes itself: not those of functions that it makes, to be called by
    somebody else, perhaps in a thread."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Await) and isinstance(node.value, ast.Call):
            waiting += [*node.value.args, *(k.value for k in node.value.keywords)]
            continue
        if isinstance(node, ast.Call):
            yield node
        waiting += ast.iter_child_nodes(node)


def file_calls_in_loops(sources: dict[str, str]) -> list[str]:
    """Where coroutines call what reads or writes files, by themselves or through functions."""
    functions = [
        (path, node)
        for path, text in sources.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    blocking = set(FILE_CALLS)
    while True:
        more = {
            node.name
            for _, node in functions
            if isinstance(node, ast.FunctionDef)
            and not node.name.startswith("__")
            and any(name_of(call) in blocking for call in calls_now(node.body))
        }
        if more <= blocking:
            break
        blocking |= more
    return sorted(
        f"{path}:{call.lineno} {node.name} calls {name_of(call)}"
        for path, node in functions
        if isinstance(node, ast.AsyncFunctionDef)
        for call in calls_now(node.body)
        if name_of(call) in blocking
    )


def test_coroutines_look_at_files_of_models_only_beside_their_loop() -> None:
    sources = {
        str(path.relative_to(PACKAGE.parent)): path.read_text(encoding="utf-8")
        for path in sorted((PACKAGE / ROOM).rglob("*.py"))
    }
    found = file_calls_in_loops(sources)
    assert found == []


def test_a_look_is_seen_where_the_loop_makes_it_and_not_where_a_thread_does() -> None:
    text = """
def config(folder):
    return (folder / "config.json").read_text()

def known(folder):
    return config(folder)

async def wrong(folder):
    return known(folder)

async def right(folder):
    return await look_at(folder, lambda: known(folder))
"""
    assert file_calls_in_loops({"a.py": text}) == ["a.py:9 wrong calls known"]
