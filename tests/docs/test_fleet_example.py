"""The fleet file that everybody copies is planned as it is printed."""

import re
import subprocess
import sys
from pathlib import Path

from tests.structure.imports import ROOT

PAGE = ROOT / "docs" / "reference" / "fleet-file.md"


def test_the_example_of_the_page_is_planned_and_serves_all(tmp_path: Path) -> None:
    found = re.search(r"^```toml\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)
    assert found is not None
    file = tmp_path / "fleet.toml"
    file.write_text(found[1])
    command = [sys.executable, "-m", "partitiond", "plan", "--from", str(file), "--time-limit", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 of 20 requests/s" in done.stdout
