"""The simulated library has every NVML function that partitiond calls."""

import ast
import ctypes
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pynvml

import bench
import partitiond
from partitiond.simulated.gpus import SimulatedHost

FOLDERS = [Path(folder) for package in (partitiond, bench) for folder in package.__path__]
NAME = re.compile(r"nvml[A-Z]\w+")


def functions_of_the_binding() -> Mapping[str, ast.FunctionDef]:
    """Its functions, by name, as they are written."""
    tree = ast.parse(inspect.getsource(pynvml))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


BINDING = functions_of_the_binding()


def named(path: Path) -> Iterator[str]:
    """Functions of the binding that a file names: `pynvml.x`, `nvml.x`, or as a string."""
    text = path.read_text(encoding="utf-8")
    if not NAME.search(text):
        return
    for node in ast.walk(ast.parse(text)):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
        if isinstance(name, str) and NAME.fullmatch(name) and name in BINDING:
            yield name


def symbols(name: str) -> Iterator[str]:
    """What a function of the binding looks up in the library, itself or through others."""
    for node in ast.walk(BINDING[name]):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id == "_nvmlGetFunctionPointer":
            (symbol,) = node.args
            assert isinstance(symbol, ast.Constant), f"{name} makes the name of what it calls"
            yield str(symbol.value)
        elif node.func.id in BINDING and NAME.fullmatch(node.func.id):
            yield from symbols(node.func.id)


def used() -> dict[str, list[str]]:
    """Functions of the binding that are used, each with the files that do."""
    found: dict[str, list[str]] = {}
    for path in (path for folder in FOLDERS for path in sorted(folder.rglob("*.py"))):
        for name in named(path):
            found.setdefault(name, []).append(path.name)
    return found


USED = used()


def test_the_simulated_library_has_what_is_called(tmp_path: Path) -> None:
    library = ctypes.CDLL(str(SimulatedHost.create("mixed", tmp_path / "host").nvml_path))
    assert [name for name in USED if not set(symbols(name))] == [], "these call nothing"
    assert [
        (name, symbol, USED[name])
        for name in sorted(USED)
        for symbol in symbols(name)
        if not hasattr(library, symbol)
    ] == []


def test_no_call_depends_on_the_version_of_the_binding() -> None:
    """The binding's names without a version refuse drivers older than itself."""
    decorated = {
        name
        for name, function in BINDING.items()
        if any(isinstance(d, ast.Name) and d.id == "throwOnVersionMismatch"
               for d in function.decorator_list)
    }  # fmt: skip
    assert "nvmlDeviceGetComputeRunningProcesses" in decorated
    assert not decorated & set(USED)
