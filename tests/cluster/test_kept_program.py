"""A program that is kept is started again whatever ended it, and ends with its keeping."""

import os
from pathlib import Path

import pytest

from partitiond.cluster.kept_program import KeptProgram
from partitiond.platform.background import Background
from tests.cluster.ray_fixtures import says
from tests.machine import until


async def test_it_is_started_again_and_ends_when_nobody_keeps_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = "echo other; echo ours: $$; [ -e began ] && exec sleep 600; touch began; exit 3"
    command = ["sh", "-c", f"cd {tmp_path}; {script}"]
    kept = KeptProgram("a program", command, os.environ, tmp_path / "new" / "log", "ours: ")
    keeping = Background([kept.keep])
    keeping.start()
    await says(kept.log_path, "ours: ")
    await until(lambda: "exit status 3" in caplog.text and kept.process, "another start")
    process = kept.process
    assert process is not None
    await until(lambda: kept.last_words() == str(process.pid))
    await keeping.stop()
    assert process.returncode is not None


async def test_one_that_cannot_be_started_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a fork that failed; the daemon goes on."""
    kept = KeptProgram("a program", [str(tmp_path / "absent")], {}, tmp_path / "log")
    keeping = Background([kept.keep])
    keeping.start()
    await until(lambda: "begins again" in caplog.text)
    await keeping.stop()
    assert kept.last_words() == "it said nothing"


async def test_one_that_takes_long_to_end_is_given_its_time(tmp_path: Path) -> None:
    """A keeper that is killed leaves Ray running."""
    script = f"trap 'sleep 6; touch {tmp_path}/ended; exit' TERM; echo begun; sleep 600 & wait"
    kept = KeptProgram(
        "a program", ["sh", "-c", script], os.environ, tmp_path / "log", end_seconds=60.0
    )
    keeping = Background([kept.keep])
    keeping.start()
    await says(kept.log_path, "begun")
    await keeping.stop()
    assert (tmp_path / "ended").exists()
