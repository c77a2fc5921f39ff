"""Checks what earlier runs left in the run folder. Pure, but for the reader at the end."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from partitiond.cli.doctor.findings import DoctorFinding, ok, warn
from partitiond.engines.process.journal import run_folders
from partitiond.engines.process.owners import owners
from partitiond.platform.process_identity import is_alive

CHECK = "engines"


@dataclasses.dataclass(frozen=True, slots=True)
class EngineFolder:
    """The run folder of one engine.

    Attributes:
        alive: whether its shim lives.
        processes: number of the engine's living processes, the shim included.
        serving: whether it was started for a plan, or its launch cannot be read; otherwise it was
            started for a profile job, which ended with its daemon.
    """

    replica_id: str
    alive: bool
    processes: int
    serving: bool


def check_engines(
    folders: Sequence[EngineFolder], run_dir: Path, *, daemon_runs: bool
) -> list[DoctorFinding]:
    """Find engines without a daemon, engines of jobs that are gone, and folders of dead engines."""
    if daemon_runs:
        alive = sum(folder.alive for folder in folders)
        return [ok(CHECK, f"{alive} run, and the daemon looks after them")]
    serving = [f for f in folders if f.alive and f.serving]
    orphans = [f for f in folders if f.alive and not f.serving]
    dead = [f for f in folders if not f.alive]
    found = []
    if serving:
        found.append(
            warn(
                CHECK,
                f"{len(serving)} serve without a daemon: {_names(serving)}",
                "`partitiond serve` adopts them, `partitiond down` then stops them",
                "partitiond serve",
            )
        )
    if orphans:
        found.append(
            warn(
                CHECK,
                f"{len(orphans)} of profile jobs that ended: {_names(orphans)}",
                "they hold memory for nobody; the next start of the daemon ends them",
                "partitiond serve",
            )
        )
    if dead:
        strays = sum(f.processes for f in dead)
        beside = f", and {strays} processes they left" if strays else ""
        found.append(
            warn(
                CHECK,
                f"{len(dead)} run folders of engines that are gone below {run_dir}: "
                f"{_names(dead)}{beside}",
                "the next start of the daemon clears them, and keeps their logs",
                "partitiond serve",
            )
        )
    return found or [ok(CHECK, "none left over")]


def _names(folders: Sequence[EngineFolder]) -> str:
    names = ", ".join(folder.replica_id for folder in folders[:4])
    return names + (f" and {len(folders) - 4} more" if len(folders) > 4 else "")


def engine_folders(run_dir: Path) -> tuple[EngineFolder, ...]:
    """Read which engine folders lie in the run folder now."""
    owned = list(owners(run_dir).values())
    found = []
    for folder in run_folders(run_dir):
        launch, process = folder.launch(), folder.process()
        name = launch.replica_id if launch is not None else folder.path.name
        found.append(
            EngineFolder(
                replica_id=name,
                alive=process is not None and is_alive(process),
                processes=owned.count(name),
                serving=launch is None or launch.placement is not None,
            )
        )
    return tuple(found)
