"""The pictures of the import graph are what the code says, and say it readably."""

import re
from itertools import pairwise
from pathlib import Path

from docs import import_pictures
from docs.import_pictures import between, draw, imports_of, layers_of, pictures, rising, upward

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_pictures_are_what_the_code_says() -> None:
    made = pictures(ROOT)
    committed = {p.name: p.read_text("utf-8") for p in import_pictures.FOLDER.glob("*.svg")}
    assert committed.keys() == {*made, "before.svg", "tour-hosts.svg"}
    assert not [name for name, text in made.items() if committed[name] != text], "run `make docs`"


def test_every_package_and_every_room_is_in_its_picture() -> None:
    whole = (import_pictures.FOLDER / "whole.svg").read_text("utf-8")
    for package in (ROOT / "partitiond").glob("*/__init__.py"):
        if package.parent.name != "ui":  # imported by its path alone
            assert f">{package.parent.name}</text>" in whole


def test_hidden_and_type_imports_count_and_the_rest_of_the_world_does_not(tmp_path: Path) -> None:
    for name, text in {
        "partitiond/__init__.py": "",
        "partitiond/a/__init__.py": "",
        "partitiond/a/one.py": "import os\nfrom partitiond.b import two\n",
        "partitiond/b/__init__.py": "",
        "partitiond/b/two.py": (
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from partitiond.c import X\n"
            "def late():\n    import partitiond.d\n    from partitiond.c import Y\n"
        ),
        "partitiond/c.py": "X = Y = 1\n",
        "partitiond/d.py": "import loadgen\n",
        "loadgen/__init__.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert between(imports_of(tmp_path), "partitiond") == {
        ("a", "b"): 1, ("b", "c"): 1, ("b", "d"): 1, ("d", "loadgen"): 1
    }  # fmt: skip


def test_boxes_lie_above_what_they_import_and_the_thinnest_arrow_of_a_circle_goes_up() -> None:
    edges = {("a", "b"): 3, ("b", "c"): 2, ("a", "c"): 1, ("c", "a"): 1}
    assert upward(edges) == {("c", "a")}
    assert layers_of(edges, upward(edges)) == {"a": 2, "b": 1, "c": 0}
    drawn = draw("A circle", edges)
    assert drawn.count('class="up"') == 2, "cut at the layer between"
    assert drawn.count('class="tip"') == 1
    assert draw("A circle", edges) == drawn


def test_no_two_boxes_overlap() -> None:
    box = re.compile(r'<rect class="box" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"')
    for picture in import_pictures.FOLDER.glob("*.svg"):
        found = sorted(
            (float(y), float(x), float(w)) for x, y, w in box.findall(picture.read_text())
        )
        for (row, x, width), (other_row, other, _) in pairwise(found):
            assert row != other_row or x + width < other, picture.name


def test_rising_numbers_are_the_nearest_ones() -> None:
    assert rising([(1, 1), (3, 1), (2, 1), (5, 1)]) == [1, 2.5, 2.5, 5]
    assert rising([(4, 1), (0, 3)]) == [1, 1]
