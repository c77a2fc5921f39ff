"""The table of rooms on the architecture page is what the tree is."""

import re
from pathlib import Path

from docs.import_pictures import between, imports_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
ROW = re.compile(r"^\| (`[^|]+`) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
NAME = re.compile(r"`(\w+)`")


def allowed() -> dict[str, set[str]]:
    """The packages that may import each package, as the page says."""
    rows = [(NAME.findall(names), text) for names, text in ROW.findall(PAGE)]
    every = {name for names, _ in rows for name in names} | {"__main__"}
    found = {}
    for names, text in rows:
        said = set(NAME.findall(text))
        for name in names:
            found[name] = every - said if text.startswith("all but") else said
    return found


def test_every_package_and_module_of_the_root_has_a_row() -> None:
    folders = {path.parent.name for path in (ROOT / "partitiond").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "partitiond").glob("*.py")}
    assert allowed().keys() == folders | modules - {"__init__", "__main__"} | {"loadgen"}


def test_packages_are_imported_only_by_those_that_the_page_names() -> None:
    may = allowed()
    imports = between(imports_of(ROOT), "partitiond")
    wrong = sorted((a, b) for a, b in imports if a not in may[b])
    assert not wrong, "the page does not name these (importer, imported)"


def test_classes_and_functions_that_the_page_names_exist() -> None:
    code = "".join(p.read_text("utf-8") for p in (ROOT / "partitiond").rglob("*.py"))
    names = set(re.findall(r"`((?:[A-Z][a-z]+){2,})`", PAGE)) | {"reconcile", "convergence"}
    assert len(names) >= 5
    assert not {n for n in names if not re.search(rf"(?:class|def) {n}\b|^{n} = ", code, re.M)}
