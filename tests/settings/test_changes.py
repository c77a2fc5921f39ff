"""One setting of a file is changed line by line, and what cannot be changed so is refused."""

import tomllib

import pytest

from partitiond.core.errors import SettingsError
from partitiond.settings.changes import with_setting

FILE = """\
# top
cache_dir = "/c"

[proxy] # ports
port = 9000 # as agreed
[proxy_other]
port = 1
[engine]
"""


@pytest.mark.parametrize(
    ("key", "value", "line", "after"),
    [
        ("proxy.port", 9001, "port = 9001", "[proxy] # ports"),
        ("proxy.host", 'a"b', 'host = "a\\"b"', "[proxy] # ports"),
        ("cache_dir", "/d", 'cache_dir = "/d"', "# top"),
        ("state_dir", "/s", 'state_dir = "/s"', ""),
        ("engine.index_urls", ["u", "v"], 'index_urls = ["u", "v"]', "[engine]"),
        ("planner.seed", 7, "seed = 7", "[planner]"),
    ],
)
def test_a_line_is_replaced_or_added_in_its_table(
    key: str, value: object, line: str, after: str
) -> None:
    lines = with_setting(FILE, key, value).splitlines()
    assert (lines[lines.index(line) - 1] if after else "") == after
    table, _, name = key.rpartition(".")
    made = tomllib.loads("\n".join(lines))
    assert (made[table] if table else made)[name] == value
    kept = [old for old in FILE.splitlines() if old in lines]
    assert len(kept) >= len(FILE.splitlines()) - 1


def test_a_setting_is_taken_out_and_a_file_of_another_form_is_left_to_an_editor() -> None:
    assert "9000" not in with_setting(FILE, "proxy.port", None)
    assert "[proxy]" not in with_setting("", "proxy.port", None)
    for text in ("proxy = { port = 1 }\n", "proxy.port = 1\n", "[proxy]\nport = [\n1]\n", "x ="):
        with pytest.raises(SettingsError):
            with_setting(text, "proxy.port", 2)
