"""Runs an exporter of DCGM's text."""

import http.server
import threading
from collections.abc import Iterator

import pytest

DCGM_TEXT = """\
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-abc",device="nvidia0",modelName="NVIDIA A100"} 40
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-def",device="nvidia1",modelName="NVIDIA A100"} 99
DCGM_FI_PROF_SM_ACTIVE{gpu="0",UUID="GPU-abc",device="nvidia0"} 0.250000
DCGM_FI_PROF_SM_ACTIVE{gpu="0",UUID="GPU-abc",GPU_I_ID="3",GPU_I_PROFILE="1g.5gb"} 0.9
DCGM_FI_PROF_SM_OCCUPANCY{gpu="0",UUID="GPU-abc",device="nvidia0"} 0.125 1700000000000
DCGM_FI_PROF_DRAM_ACTIVE{gpu="0",UUID="GPU-abc",device="nvidia0"} NaN
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-abc",device="nvidia0"} 123.5
"""


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        told_of = self.path.partition("?")[2] or "GPU-abc"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(DCGM_TEXT.replace("GPU-abc", told_of).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing on the test's output."""


@pytest.fixture
def exporter() -> Iterator[str]:
    """Its address; it tells of the GPU whose UUID stands behind a question mark."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()
