"""What `partitiond doctor --fix` does: safe things, to leftovers of our own alone.

It holds the state folder's lock meanwhile, so that no daemon starts into it. Engines that serve are
never ended: `partitiond serve` adopts them.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from partitiond.core.errors import PartitiondError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partitiond.cli.doctor_findings import Finding
    from partitiond.settings import Settings

STOP_SECONDS = 10.0


def fixable(findings: "Sequence[Finding]") -> "list[Finding]":
    """Those that something would be done about."""
    return [finding for finding in findings if finding.fix]


def fix(settings: "Settings") -> list[str]:
    """Do it all; one sentence for each thing that was done, or could not be.

    Raises:
        StateFolderBusyError: a daemon, or a profile, runs on this state folder.
        RunFolderBusyError: the run folder is another state folder's.
    """
    from partitiond.run_folder import owned_run_folder
    from partitiond.store import StateLock

    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with StateLock.acquire(settings.lock_path), owned_run_folder(settings):
        return asyncio.run(_fix(settings))


async def _fix(settings: "Settings") -> list[str]:
    from partitiond.cli.doctor_gather import mps_facts

    # Settling devices ends what is left in these folders; the folders are removed after.
    before = await asyncio.to_thread(mps_facts, settings)
    stale = {own.folder for own in before.own if not own.alive}
    done = await _engines(settings)
    return [*done, *await _mps(settings, stale)]


async def _engines(settings: "Settings") -> list[str]:
    """End engines of jobs that are gone, clear folders of dead engines."""
    from partitiond.cli.local_engines import local_engines

    before = _folders(settings.run_dir)
    engines = local_engines(settings, None)
    runner, done = engines.runner, []
    try:
        # The first look settles devices: what is journalled and used by no engine is undone.
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
    from partitiond.engines.journal import run_folders

    return {folder.path.name for folder in run_folders(run_dir)}


async def _mps(settings: "Settings", stale: set[Path]) -> list[str]:
    """End control daemons of ours without clients, remove what is left of those that are gone."""
    import shutil

    from partitiond.cli.doctor_gather import mps_facts
    from partitiond.devices.mps import MpsControl
    from partitiond.gpu_host import mps_program

    facts = await asyncio.to_thread(mps_facts, settings)
    control = MpsControl(settings.run_dir, mps_program(settings))
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
