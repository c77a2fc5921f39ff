"""Runs the demo for the dashboard's tests and pictures: six models on a simulated host of eight
GPUs, under a little load.

    python -m tests.ui.demo FOLDER      run it until interrupted, to look at it
"""

import asyncio
import contextlib
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx

from partitiond.core.views.overview import Overview
from partitiond.simulated.gpus import SimulatedHost
from tests.e2e.harness import Fleet
from tests.machine import pace, wait_for

DEVICES = 8
READY_SECONDS = 240.0
MODELS: dict[str, dict[str, object]] = {
    "smollm2-135m": {"demand": {"req_per_s": 90}},
    "opt-125m": {"demand": {"req_per_s": 120}},
    "qwen2.5-0.5b": {"demand": {"req_per_s": 60}},
    "llama-3.2-1b": {"demand": {"req_per_s": 30}, "aliases": ["assistant"]},
    "opt-1.3b": {"demand": {"req_per_s": 16}},
    "opt-2.7b": {"demand": {"req_per_s": 3}, "isolation": "device"},
}
LOAD = {"smollm2-135m": 0.4, "opt-125m": 0.2, "qwen2.5-0.5b": 0.1, "llama-3.2-1b": 0.1,
        "opt-1.3b": 0.1}  # fmt: skip
"""Requests/s: enough to move every figure, little enough for a machine that does other things."""


class Demo(Fleet):
    """The daemon and its load."""

    def __init__(self, folder: Path) -> None:
        host = SimulatedHost.create("a100-80gb-x8", folder / "host")
        super().__init__(
            folder,
            {
                "gpu.enabled": True,
                "gpu.simulated_host": str(host.folder),
                "cpu.enabled": False,
                "daemon.loop_seconds": 2.0,
                "planner.objective": "min-devices",
                "planner.time_limit_seconds": 2.0,
                # Simulated engines are not as fast as the estimates they are planned from.
                "drift.enabled": False,
            },
        )
        self._load: threading.Thread | None = None
        self._ending = threading.Event()

    @property
    def token(self) -> str:
        return self.settings.token_path.read_text().strip()

    @property
    def url(self) -> str:
        return f"{self.settings.control_url}/ui"

    def fill(self) -> None:
        """Register the models and wait until they serve."""
        with self.client() as client:
            for model, more in MODELS.items():
                body: dict[str, object] = {
                    "model": model,
                    "weights": "dummy",
                    "engine_kind": "simulated",
                    "auto": False,
                    "slo": {"ttft_seconds": 0.75, "tpot_seconds": 0.04},
                    "workload": {"prompt_tokens": 256, "output_tokens": 64},
                }
                client.register(body | more)
            client.apply(client.plan().plan.id)
        wait_for("all replicas to serve", self._all_serve, seconds=READY_SECONDS)

    def _all_serve(self) -> bool:
        return {view.state for view in self.overview().replicas} == {"serving"}

    def overview(self) -> Overview:
        with self.client() as client:
            return client.overview()

    def names(self) -> set[str]:
        """Of all models."""
        return {model.name for model in self.overview().models}

    def begin_load(self) -> None:
        self._load = threading.Thread(target=lambda: asyncio.run(self._send()), daemon=True)
        self._load.start()

    def end_load(self) -> None:
        self._ending.set()
        if self._load is not None:
            self._load.join(60)

    async def _send(self) -> None:
        base = f"http://127.0.0.1:{self.settings.proxy.port}/v1/completions"
        draw = random.Random(7)
        async with httpx.AsyncClient(timeout=300, trust_env=False) as http:
            async with asyncio.TaskGroup() as tasks:
                for model, rate in LOAD.items():
                    tasks.create_task(self._send_to(http, base, model, rate, draw))

    async def _send_to(
        self, http: httpx.AsyncClient, url: str, model: str, rate: float, draw: random.Random
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            while not self._ending.is_set():
                tasks.create_task(_one(http, url, model, draw.randint(8, 24)))
                await pace(min(9.0, draw.expovariate(rate)))


async def _one(http: httpx.AsyncClient, url: str, model: str, tokens: int) -> None:
    body = {
        "model": model, "prompt": "Once upon a time there was " * 37, "max_tokens": tokens,
        "stream": True, "ignore_eos": True,
    }  # fmt: skip
    with contextlib.suppress(httpx.HTTPError):  # a model may be changing
        async with http.stream("POST", url, json=body) as answer:
            async for _ in answer.aiter_bytes():
                pass


@contextlib.contextmanager
def demo(folder: Path) -> Iterator[Demo]:
    """It, serving and under load; nothing of it is left."""
    fleet = Demo(folder)
    try:
        fleet.start()
        fleet.fill()
        fleet.begin_load()
        yield fleet
    finally:
        fleet.end_load()
        if fleet.process is not None and fleet.process.poll() is None:
            fleet.terminate()


if __name__ == "__main__":
    with demo(Path(sys.argv[1])) as running:
        print(f"{running.url}  {running.token}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
