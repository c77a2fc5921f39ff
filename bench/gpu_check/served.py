"""Runs a real daemon on this machine's GPU, or on a simulated one: applies plans and loads them.

The daemon has a state folder of its own, listens on loopback only, and gives the GPU back. It needs
partitiond's own packages beside vLLM's; without them its steps are impossible, with the reason.
"""

import asyncio
import contextlib
import dataclasses
import functools
import importlib.util
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.daemons import Daemon, begun
from bench.gpu_check.lab import DTYPE, Lab
from bench.gpu_check.schedule import ImpossibleError
from bench.gpu_check.side_by_side import Stream, Together
from partitiond.core.errors import EngineError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.engines.process.spawn import to_end

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient
    from partitiond.core.plan.record import Placement
    from partitiond.core.views.lists import ReplicaView

PACKAGES: Final = (
    "alembic",
    "fastapi",
    "httptools",
    "httpx",
    "huggingface_hub",
    "librt",
    "msgspec",
    "mypy_extensions",
    "numpy",
    "ortools",
    "platformdirs",
    "prometheus_client",
    "psutil",
    "rich",
    "sqlmodel",
    "typer",
    "uvicorn",
    "uvloop",
    "yaml",
)
"""Modules that a daemon needs beyond those of the check."""
READY_SECONDS: Final = 120.0
SIMULATED_CORES: Final = 16
_ON_CORES: Final = (
    "import json, os, sys\n"
    "cores = json.loads(sys.argv[1])\n"
    "os.sched_setaffinity(0, cores or os.sched_getaffinity(0))\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'partitiond', *sys.argv[2:]])\n"
)
"""The daemon, its proxy and its engines get the cores that other engines get, and no others."""
NO_MPS: Final = "/nonexistent/nvidia-cuda-mps-control"
"""Without MPS's control program a plan is made of memory shares."""


class ServingUnavailableError(ImpossibleError):
    """No daemon can be run here; the text gives the reason."""


def missing_packages() -> list[str]:
    """Packages that a daemon needs and that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """The remains of a daemon on the GPU after its end.

    Attributes:
        journal: number of entries in its device journal.
        processes: number of processes that use its folder.
    """

    journal: int
    processes: int

    @property
    def nothing(self) -> bool:
        """Whether the daemon left nothing."""
        return self.journal == 0 and self.processes == 0


class Served:
    """One running daemon, loaded and looked at by the check."""

    def __init__(self, lab: Lab, daemon: Daemon) -> None:
        self._lab = lab
        self._daemon = daemon

    @property
    def url(self) -> str:
        """The OpenAI-compatible endpoint's address, without a path."""
        return self._daemon.settings.proxy_url

    @functools.cached_property
    def client(self) -> "ControlClient":
        """A client of the daemon's control API."""
        return self._daemon.client()

    async def start(self) -> None:
        """Wait for the daemon. Raises EngineError: it ended, or did not answer."""
        await self._until("the daemon to answer", self._answers, READY_SECONDS)
        await asyncio.to_thread(self._keep_to_one)

    def _keep_to_one(self) -> None:
        """Cordon all GPUs but the one under test, so that plans use only this GPU."""
        if self._lab.tools.engine_kind == "simulated":
            return
        client = self.client
        for device in client.devices():
            if device.id != self._lab.device.id:
                client.cordon(device.id, "not the one that is measured")

    def _answers(self) -> bool:
        try:
            return self._daemon.ready()
        except RuntimeError as error:
            raise EngineError(
                f"the daemon ended: {self._last_words()}", hint="See its log."
            ) from error

    def _last_words(self) -> str:
        return " | ".join(self._daemon.log().strip().splitlines()[-3:])[-600:]

    async def serve(self, name: str, replicas: int) -> "tuple[tuple[Placement, ...], float]":
        """Register the model, plan and apply; return placements and seconds until all serve."""
        placements = await asyncio.to_thread(self._apply, name, replicas)
        began = time.monotonic()
        await self.until_serving(replicas, seconds=self._start_seconds(replicas))
        return placements, time.monotonic() - began

    def _start_seconds(self, replicas: int) -> float:
        return 60.0 + 420.0 * replicas if self._lab.tools.engine_kind == "vllm" else 60.0

    def _apply(self, name: str, replicas: int) -> "tuple[Placement, ...]":
        client, scale = self.client, self._lab.scale
        with contextlib.suppress(EngineError):  # without a profile the estimate is used
            client.import_profile(self._lab.measured(name), replace=True)
        client.register(
            {
                "name": name,
                "model": name,
                "weights": "dummy",
                "engine_kind": self._lab.tools.engine_kind,
                "engine": {"dtype": DTYPE, "extra_args": list(self._lab.tools.engine_args)},
                "workload": {
                    "prompt_tokens": scale.workload.prompt_tokens,
                    "output_tokens": scale.workload.output_tokens,
                },
                "min_replicas": replicas,
                "max_replicas": replicas,
                "auto": False,
            }
        )
        preview = client.plan()
        if preview.infeasible is not None:
            raise EngineError("; ".join(preview.infeasible.reasons), hint="See the plan.")
        client.apply(preview.plan.id)
        return tuple(preview.plan.placements)

    async def until_serving(self, count: int, *, seconds: float) -> "Sequence[ReplicaView]":
        """All replicas, once exactly `count` of them serve. Raises EngineError."""

        def ready() -> "Sequence[ReplicaView] | None":
            views = self.client.replicas()
            good = [view for view in views if view.state == "serving"]
            return views if len(good) == count and len(views) == count else None

        found: Sequence[ReplicaView] = await self._until(
            f"{count} replicas to serve", ready, seconds
        )
        return found

    async def _until(self, what: str, check: Callable[[], Any], seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            found = await asyncio.to_thread(check)
            if found:
                return found
            if time.monotonic() > deadline:
                raise EngineError(
                    f"waited {seconds:.0f} s in vain for {what}: {self._last_words()}",
                    hint="See the daemon's log.",
                )
            await asyncio.sleep(0.2)

    async def load(self, name: str, in_flight: int, pids: Sequence[int]) -> Together:
        """Measure one window through the proxy, with `in_flight` requests in flight."""
        # One Python process would limit several fast engines.
        workers = max(1, min(8, in_flight // 64))
        streams = [
            self.stream(name, share, number)
            for number, share in enumerate(_split(in_flight, workers))
        ]

        async def preempted() -> list[int | None]:
            return [None] * workers

        return await self._lab.window(streams, tuple(pids), preempted)

    def stream(self, name: str, in_flight: int, number: int = 0) -> Stream:
        """Load number `number` of a window, through the proxy."""
        return Stream(self.url, self._lab.load_of(name, number), in_flight, self._lab.load_cores)

    async def end(self) -> Left:
        """Drain, stop everything, and count what is left."""
        return await asyncio.to_thread(self._end)

    def _end(self) -> Left:
        from partitiond.devices.partitions.journal import read_entries

        self.client.close()
        self._daemon.end()
        entries = read_entries(self._daemon.folder / "state" / "devices.json")
        return Left(len(entries), len(self.processes()))

    def processes(self) -> list[int]:
        """Every process that has this daemon's folders in its command line or environment."""
        return self._daemon.pids()


def _split(total: int, parts: int) -> list[int]:
    """A number as the sum of `parts` integers, as equal as possible."""
    each, over = divmod(max(total, parts), parts)
    return [each + (n < over) for n in range(parts)]


@contextlib.asynccontextmanager
async def served(lab: Lab, mode: SharingMode) -> AsyncIterator[Served]:
    """A daemon whose plans use this sharing mode; it is ended at the end of the block.

    Raises:
        ServingUnavailableError: no daemon can be run here.
        EngineError: the daemon did not start.
    """
    missing = missing_packages()
    if missing:
        raise ServingUnavailableError(
            f"a daemon needs {', '.join(missing)} beside vLLM: run the check in partitiond's own "
            "environment, with --engine-python"
        )
    if mode is SharingMode.MPS and isinstance(lab.tools.mps_program, str):
        raise ServingUnavailableError(f"MPS: {lab.tools.mps_program}")
    command = ("-c", _ON_CORES, json.dumps(lab.engine_cores))
    with tempfile.TemporaryDirectory(prefix="pd-plan-") as short, contextlib.ExitStack() as stack:
        settings = await asyncio.to_thread(_settings, lab, Path(short), mode)
        daemon = Served(lab, stack.enter_context(begun(settings, command)))
        try:
            await daemon.start()
            yield daemon
        finally:
            await to_end(daemon.end())


def _settings(lab: Lab, folder: Path, mode: SharingMode) -> dict[str, object]:
    values: dict[str, object] = {
        "cache_dir": lab.tools.cache_dir,
        "proxy.max_queue": 4096,
        "proxy.max_wait_seconds": 600.0,
        "cpu.enabled": False,
        "engine.allow_unknown_version": False,
        "models.offline": True,
        "gpu.mig_changes": "instances" if mode is SharingMode.MIG else "never",
    }
    if lab.tools.engine_kind == "simulated":
        values["gpu.simulated_host"] = _simulated_host(lab, folder, mode)
    elif lab.tools.engine_python is not None:
        values["engine.python"] = lab.tools.engine_python
    if mode is SharingMode.MEMORY:
        values["gpu.mps_control"] = NO_MPS
    elif mode is SharingMode.MPS and lab.tools.engine_kind == "vllm":
        # The check looks beyond PATH, where the daemon does not.
        values["gpu.mps_control"] = lab.tools.mps_program
    return values


def _simulated_host(lab: Lab, folder: Path, mode: SharingMode) -> Path:
    from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost

    gpus = (GpuDescription(lab.device.hardware, 1, mig=mode is SharingMode.MIG),)
    host = SimulatedHost.create(
        HostDescription("gpu-check", gpus, cores=SIMULATED_CORES), folder / "host"
    )
    if mode is SharingMode.MEMORY:
        host.mps_control.unlink()  # a simulated host has an MPS control program of its own
    return host.folder
