"""What a rule and its wrong versions are."""

import dataclasses
from typing import Final

LEAST: Final = 3
"""Wrong versions of each rule."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wrong:
    """One wrong version: `old`, which stands once in `file`, becomes `new`.

    Attributes:
        file: from the root of the tree.
        tests: node ids as pytest takes them, of which at least one has to fail.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """A sentence that has to be true, and versions in which it is not."""

    says: str
    wrong: tuple[Wrong, ...]


def rule(says: str, *tests: str, wrong: tuple[tuple[str, str, str], ...]) -> Rule:
    """A rule all of whose wrong versions the same tests have to refuse.

    Args:
        says: the rule.
        tests: as in `Wrong`.
        wrong: file, old text, new text of each.
    """
    return Rule(says, tuple(Wrong(file, old, new, tests) for file, old, new in wrong))
