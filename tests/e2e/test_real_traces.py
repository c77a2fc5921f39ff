"""A trace goes from a client through the endpoint into a real vLLM, complete at one collector."""

import dataclasses
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from partitiond.engines.install.environment import EngineEnvironment
from partitiond.engines.process.runner import ProcessEngineRunner
from tests.chaos.rig import proxy_under_test
from tests.controller.samples import placement
from tests.engine_fixtures import (
    chat_model_folder,
    engine_cache_dir,
    engine_environment,
    short_dir,
    vllm_launch,
)
from tests.machine import until
from tests.proxy.conftest import replica

__all__ = ["chat_model_folder", "engine_environment", "short_dir"]

pytestmark = [
    pytest.mark.engine,
    pytest.mark.soak,
]
START_SECONDS = 480.0
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(http.server.ThreadingHTTPServer):
    """Keeps what it is sent, which is protobuf."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.bodies.append(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1/traces"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


async def test_the_engines_span_is_a_child_of_the_clients(
    short_dir: Path, engine_environment: EngineEnvironment, chat_model_folder: Path,
    collector: Collector,
) -> None:  # fmt: skip
    runner = ProcessEngineRunner(
        short_dir / "run", engine_environment, cache_dir=engine_cache_dir(),
        traces_endpoint=collector.url,
    )  # fmt: skip
    launch = dataclasses.replace(vllm_launch(chat_model_folder), placement=placement("real-0"))
    handle = await runner.start(launch)
    try:
        await runner.wait_ready(handle, START_SECONDS, lambda _phase: None)
        options = {"traces_endpoint": collector.url, "traces_ratio": 0.0}
        async with proxy_under_test(short_dir, **options) as proxy:
            await proxy.serve([replica(Path(handle.socket_path))], served_name="tiny")
            async with httpx.AsyncClient(timeout=300, verify=False) as client:
                answer = await client.post(
                    f"{proxy.base_url}/v1/completions",
                    json={"model": "m", "prompt": "Once upon", "max_tokens": 4},
                    headers={"traceparent": f"00-{TRACE}-{SPAN}-01"},
                )
            assert answer.status_code == 200, answer.text
        ids = bytes.fromhex(TRACE), bytes.fromhex(SPAN)
        await until(
            lambda: all(one in b"".join(collector.bodies) for one in ids),
            "a span of this trace with the client's as its parent",
        )
    finally:
        await runner.stop(handle, 0.0)
