"""The tour of three hosts (`make tour-hosts`) works for somebody with one machine."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from partitiond.settings.schema import Settings
from tests.cluster.ray_fixtures import ray_python
from tests.machine import clean_environment

__all__ = ["ray_python"]

FAILED = re.compile(r"^failed requests at the endpoint of head: (\d+) of (\d+)$", re.M)
SCRIPT = Path(__file__).parents[2] / "examples" / "several-hosts" / "tour.sh"

pytestmark = [pytest.mark.soak, pytest.mark.ray]


def test_the_tour_runs_unattended_and_draws_what_happened(ray_python: Path, tmp_path: Path) -> None:
    picture = tmp_path / "tour.svg"
    environment = clean_environment() | {
        "PARTITIOND": str(Path(sys.executable).with_name("partitiond")),
        "PYTHON": sys.executable,
        "PICTURE": str(picture),
    }
    done = subprocess.run(
        [str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert ray_python.is_relative_to(Settings().cache_dir), "Ray is that of the tests"
    ((failed, sent),) = ((int(a), int(b)) for a, b in FAILED.findall(done.stdout))
    assert sent >= 290, done.stdout
    assert failed <= sent // 5, done.stdout
    assert re.search(r"^goodput: \S+ of 5 requests/s", done.stdout, re.M), done.stdout
    drawn = [text.text for text in ElementTree.parse(picture).iter() if text.tag.endswith("text")]
    for words in ("gpu-2 dies", "lost", "head", "gpu-1", "gpu-2"):
        assert words in drawn
