"""The codes that hosts tell each other are those that they have."""

import ast
import inspect
from collections.abc import Iterator
from types import ModuleType

from partitiond.core.dispatch import admission, quarantine
from partitiond.proxy.request.errors import (
    BODIES_FULL,
    BODY_TOO_SLOW,
    FAILURE_STATUS,
    INTERNAL,
    NO_ROOM,
    SHUTTING_DOWN,
    TOLD_BY_HOSTS,
)


def test_every_code_of_an_owners_refusals_is_known() -> None:
    """What it says for want of a place, of its quarantine, and of its attempts."""
    said = {
        *(code for code in _refusals_of(admission)),
        *(code for code, _ in (*admission._WITHOUT_REPLICA.values(), admission._STARTING)),
        *(code for code in _refusals_of(quarantine)),
        *(f"upstream_{kind}" for kind in FAILURE_STATUS),
        *(one.code for one in (SHUTTING_DOWN, BODIES_FULL, BODY_TOO_SLOW, INTERNAL)),
        *NO_ROOM,
    }
    assert said == {*TOLD_BY_HOSTS}


def _refusals_of(module: ModuleType) -> Iterator[str]:
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Rejected":
            said = node.args[1]
            assert isinstance(said, ast.Constant) or ast.unparse(said) == "code"  # of the table
            if isinstance(said, ast.Constant):
                yield str(said.value)
