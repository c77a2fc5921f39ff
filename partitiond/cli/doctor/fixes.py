"""Applies `partitiond doctor --fix`: removes only partitiond's own leftovers, if that is safe.

The fix holds the state folder's lock, so that no daemon starts meanwhile. Engines that serve are
never ended: `partitiond serve` adopts them.
"""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from partitiond.cli.doctor.findings import DoctorFinding
from partitiond.cli.doctor.gather import mps_facts
from partitiond.core.errors import PartitiondError
from partitiond.engines.process.journal import run_folders

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings

STOP_SECONDS = 10.0


def fixable(findings: Sequence[DoctorFinding]) -> list[DoctorFinding]:
    """Return the findings that `fix` would do something about."""
    return [finding for finding in findings if finding.fix]


def fix(settings: "Settings") -> list[str]:
    """Fix everything; return one sentence for each thing that was done, or could not be done.

    Raises:
        StateFolderBusyError: a daemon or a profile run uses this state folder.
        RunFolderBusyError: the run folder belongs to another state folder.
    """
    from partitiond.run_folder import owned_run_folder
    from partitiond.store import StateLock

    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with StateLock.acquire(settings.lock_path), owned_run_folder(settings):
        return asyncio.run(_fix(settings))


async def _fix(settings: "Settings") -> list[str]:
    # `_engines` settles devices, which ends what runs in these folders; they are removed after.
    before = await asyncio.to_thread(mps_facts, settings)
    stale = {own.folder for own in before.own if not own.alive}
    done = await _engines(settings)
    return [*done, *await _mps(settings, stale)]


async def _engines(settings: "Settings") -> list[str]:
    """End engines of jobs that are gone, and clear the folders of dead engines."""
    from partitiond.cli.profile.local_engines import local_engines

    before = _folders(settings.run_dir)
    engines = local_engines(settings, None)
    runner, done = engines.runner, []
    try:
        # The first `find` settles devices: it undoes what is journalled and used by no engine.
        handles = await runner.find()
        for handle in handles:
            if handle.launch.placement is None and not handle.unread:
                await runner.stop(handle, STOP_SECONDS)
                await runner.discard(handle)
                done.append(f"ended {handle.launch.replica_id}, of a profile job that is gone")
    except PartitiondError as error:
        done.append(f"not everything could be ended: {error}")
    finally:
        engines.host.devices.close()
    cleared = before - _folders(settings.run_dir)
    ended = {text.split()[1].rstrip(",") for text in done if text.startswith("ended ")}
    left = sorted(cleared - ended)
    return [*done, *([f"cleared the run folders of {', '.join(left)}"] if left else [])]


def _folders(run_dir: Path) -> set[str]:
    return {folder.path.name for folder in run_folders(run_dir)}


async def _mps(settings: "Settings", stale: set[Path]) -> list[str]:
    """End our control daemons without clients, and remove the folders of those that are gone."""

    from partitiond.gpu_host import mps_control

    facts = await asyncio.to_thread(mps_facts, settings)
    control = mps_control(settings)
    done = []
    for own in facts.own:
        if own.alive and own.clients == 0:
            try:
                await control.daemon(own.uuid).quit()
                done.append(f"ended the control daemon of {own.uuid}")
            except PartitiondError as error:
                done.append(f"the control daemon of {own.uuid} could not be ended: {error}")
        elif not own.alive:
            stale.add(own.folder)
    for folder in sorted(stale):
        await asyncio.to_thread(shutil.rmtree, folder, True)
        done.append(f"removed {folder}")
    return done
