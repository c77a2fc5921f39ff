"""Every one of many clients that wait for the first start in a new folder gets in."""

import concurrent.futures
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from partitiond.cli.options import connect
from partitiond.core.errors import PartitiondError
from partitiond.settings.schema import load_settings
from tests.e2e.harness import clean_environment, wait_for
from tests.machine import free_port

STARTS = 12
AT_ONCE = 6
"""On two cores each start then takes three times as long as alone, with its steps far apart."""


def first_start(_number: int) -> None:
    """Start, call once as soon as it is ready, and end; the client is older than the folder."""
    with tempfile.TemporaryDirectory(prefix="pf-", ignore_cleanup_errors=True) as name:
        values = {
            "state_dir": f"{name}/s",
            "control.port": free_port(),
            "proxy.port": free_port(),
            "gpu.enabled": False,
        }
        settings = load_settings(overrides=values).settings
        given = [text for key, value in values.items() for text in ("--set", f"{key}={value}")]
        log = Path(name) / "log"
        with connect(settings) as client, log.open("wb") as out:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "partitiond", *given, "serve"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=clean_environment(),
            )
            try:

                def is_ready() -> bool:
                    assert daemon.poll() is None, log.read_text()
                    try:
                        return not client.readiness()
                    except PartitiondError:
                        return False

                wait_for("the daemon", is_ready, seconds=300)
                assert list(client.models()) == []
            finally:
                daemon.terminate()
                daemon.wait(300)


@pytest.mark.soak  # as many starts at once as make a machine slow
def test_every_first_start_of_many_on_a_loaded_machine_lets_its_client_in() -> None:
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(first_start, range(STARTS)))
