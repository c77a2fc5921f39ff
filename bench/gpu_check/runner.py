"""Runs engines as the daemon does, and with several API server processes, which plans never use."""

from collections.abc import Callable
from pathlib import Path

from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.core.units import GIB
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.runner import ProcessEngineRunner


class CheckRunner(ProcessEngineRunner):
    """Starts engines as the daemon does, except for their API servers.

    Args:
        on_start: called with the pid and the footprint in bytes of every engine, so that a
            simulated GPU shows the footprint as used memory while the engine lives.
    """

    def __init__(
        self,
        run_dir: Path,
        environment: EngineEnvironment | None,
        *,
        cache_dir: Path,
        on_start: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(run_dir, environment, cache_dir=cache_dir)
        self._servers: dict[str, int] = {}
        self._on_start = on_start

    def serve_by(self, replica_id: str, api_servers: int) -> None:
        """Start the replica of this name with so many API server processes."""
        self._servers[replica_id] = api_servers

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        handle = await super().start(launch)
        if self._on_start is not None:
            self._on_start(handle.pid, launch.kv_cache_bytes + GIB)
        return handle

    def _command(self, launch: EngineLaunch, folder: RunFolder) -> dict[str, object]:
        command = super()._command(launch, folder)
        servers = self._servers.get(launch.replica_id, 1)
        if launch.engine_kind == "vllm" and servers > 1:
            command["argv"] = served_by(command["argv"], servers)
        return command


def served_by(argv: list[str], servers: int) -> list[str]:
    """`vllm serve MODEL ...`, which alone starts several API servers, for a module's command."""
    module, named = argv.index("-m") + 1, argv.index("--model")
    rest = [*argv[module + 1 : named], *argv[named + 2 :]]
    serve = [*argv[:module], "vllm.entrypoints.cli.main", "serve", argv[named + 1]]
    return [*serve, *rest, "--api-server-count", str(servers)]
