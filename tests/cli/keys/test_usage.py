"""`partitiond keys usage` shows usage."""

import csv
import io
import json

from partitiond.cli.keys.usage import csv_of
from partitiond.core.keys.usage import UsagePosition, Used
from partitiond.core.views.usage import UsageBy, UsageLine, UsageReport
from tests.api.fake_service import FakeService
from tests.cli.conftest import Cli


def test_usage_is_shown_and_exported(service: FakeService, cli: Cli) -> None:
    used = Used(1200, 3, 45_000, 90_000, 7200.0, 5400.0, 7.2e6)
    service.store.add_usage("2025-01-01T00", {("key-1", "opt"): used}, UsagePosition())
    asked = ("keys", "usage", "--since", "2025-01-01", "--until", "2025-01-02")
    shown = cli(*asked)
    assert shown.code == 0, shown.err
    for words in ("key-1", "opt", "1,200", "90,000", "1.50 h", "2.000"):
        assert words in shown.out
    (row,) = csv.DictReader(io.StringIO(cli(*asked, "--csv").out))
    assert (row["key_id"], row["requests"], row["device_seconds"]) == ("key-1", "1200", "5400.0")
    told = json.loads(cli(*asked, "--by", "day", "--json").out)
    assert told["lines"][0]["period"] == "2025-01-01"
    one_day = cli("keys usage --since 2025-01-01 --until 2025-01-01 --json")
    assert json.loads(one_day.out)["last_hour"] == "2025-01-01T23"
    assert "Nothing was used" in cli("keys usage --since 2020-01-01 --until 2020-02-01").out


def test_what_is_no_time_is_refused(service: FakeService, cli: Cli) -> None:
    answer = cli("keys usage --since soon")
    assert answer.code == 2
    assert "7d" in answer.err
    assert cli("keys usage --csv --json").code == 2


def test_a_label_is_no_formula_of_a_spreadsheet() -> None:
    line = UsageLine("", "k", "=cmd()", "m", 1, 0, 0, 0, 0.0, 0.0, 0.0)
    text = csv_of(UsageReport("a", "b", (UsageBy.KEY,), (line,)))
    assert ",'=cmd()," in text
