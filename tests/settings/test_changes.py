"""One setting of a file is changed line by line, and what cannot be changed so is refused."""

import stat
import tomllib
from pathlib import Path

import pytest

from partitiond.core.errors import SettingsError
from partitiond.settings.changes import with_setting, write_settings

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
    for text in ("proxy = { port = 1 }\n", "proxy.port = 1\n", "[proxy]\nport = [\n1]\n"):
        with pytest.raises(SettingsError, match="in a form that is not changed by itself"):
            with_setting(text, "proxy.port", 2)
    with pytest.raises(SettingsError, match="not valid TOML"):
        with_setting("x =", "proxy.port", 2)


def test_who_could_read_the_file_still_can_and_a_link_stays_one(tmp_path: Path) -> None:
    """The daemon runs as a user of its own, and an administrator changes its settings."""
    file, link = tmp_path / "there.toml", tmp_path / "config.toml"
    file.write_text("[proxy]\nport = 9000\n")
    file.chmod(0o640)
    link.symlink_to(file)
    write_settings(link, {"proxy.port": "9001"})
    assert link.is_symlink()
    assert "9001" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    write_settings(tmp_path / "new.toml", {"proxy.port": "9001"})
    assert stat.S_IMODE((tmp_path / "new.toml").stat().st_mode) == 0o644
