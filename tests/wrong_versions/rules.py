"""The rules, by what they are about."""

from typing import Final

from tests.wrong_versions.control import CONTROL
from tests.wrong_versions.dispatch import DISPATCH
from tests.wrong_versions.memory import MEMORY
from tests.wrong_versions.rule import Rule

RULES: Final[tuple[Rule, ...]] = (*CONTROL, *DISPATCH, *MEMORY)
