"""Each wrong version can still be put in; `make wrong-versions` runs them."""

import ast
from pathlib import Path

import pytest

from tests.wrong_versions.rule import LEAST, Rule, Wrong
from tests.wrong_versions.rules import RULES

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = [(rule, wrong) for rule in RULES for wrong in rule.wrong]


@pytest.mark.parametrize("rule", RULES, ids=[rule.says for rule in RULES])
def test_each_rule_has_wrong_versions_enough_and_no_two_alike(rule: Rule) -> None:
    assert len({(w.file, w.old, w.new) for w in rule.wrong}) == len(rule.wrong) >= LEAST
    assert rule.says.endswith(".")


@pytest.mark.parametrize(
    ("rule", "wrong"), VERSIONS, ids=[f"{w.file}: {w.new[:40]}" for _, w in VERSIONS]
)
def test_a_wrong_version_can_be_put_in(rule: Rule, wrong: Wrong) -> None:
    source = (ROOT / wrong.file).read_text(encoding="utf-8")
    assert source.count(wrong.old) == 1, f"{rule.says}: {wrong.file} has changed"
    assert wrong.new != wrong.old
    ast.parse(source.replace(wrong.old, wrong.new))


def test_the_tests_that_have_to_refuse_are_there() -> None:
    for test in sorted({test for _, wrong in VERSIONS for test in wrong.tests}):
        file, _, function = test.partition("::")
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not function or f"def {function.rpartition('::')[2]}(" in source, test
