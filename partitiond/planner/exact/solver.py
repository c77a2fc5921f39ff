"""Imports CP-SAT without pandas: a third of the planner's start, and of its memory.

`cp_model` names two classes of pandas in the types of methods that nothing here calls. Empty ones
stand for them while it is imported.
"""

import sys
import types

_stand_in = types.ModuleType("pandas")
_stand_in.__dict__.update(Index=type("Index", (), {}), Series=type("Series", (), {}))
sys.modules.setdefault("pandas", _stand_in)
try:
    from ortools.sat.python import cp_model
except (AttributeError, ImportError):  # another version wants more of it
    if sys.modules["pandas"] is _stand_in:
        del sys.modules["pandas"]
    from ortools.sat.python import cp_model
finally:
    if sys.modules.get("pandas") is _stand_in:
        del sys.modules["pandas"]

__all__ = ["cp_model"]
