"""Runs engines with the changes of `command_line` applied to their commands."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.gpu_check.command_line import adapted
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.core.units import GIB
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.runner import ProcessEngineRunner


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """Changes of an engine's command; see `command_line.adapted`."""

    api_servers: int = 1
    defaults: bool = False


UNCHANGED: Final = Changes()


class CheckRunner(ProcessEngineRunner):
    """Starts engines as the daemon does, except for `Changes`.

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
        device_index: int,
        on_start: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(run_dir, environment, cache_dir=cache_dir)
        self._device_index = device_index
        self._kernels = cache_dir.absolute()
        self._changes: dict[str, Changes] = {}
        self._on_start = on_start

    def change(self, replica_id: str, changes: Changes) -> None:
        """Start the replica of this name with these changes."""
        self._changes[replica_id] = changes

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        handle = await super().start(launch)
        if self._on_start is not None:
            self._on_start(handle.pid, launch.kv_cache_bytes + GIB)
        return handle

    def _command(self, launch: EngineLaunch, folder: RunFolder) -> dict[str, object]:
        command = super()._command(launch, folder)
        changes = self._changes.get(launch.replica_id, UNCHANGED)
        if launch.engine_kind != "vllm":
            return command
        return adapted(
            command,
            device_index=self._device_index,
            **dataclasses.asdict(changes),
            inherited=os.environ,
            cache_dir=str(self._kernels),
        )
