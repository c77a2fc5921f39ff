"""Maps processes to engines, by one scan of /proc for all engines of a run folder."""

import functools
from pathlib import Path

from partitiond.engines.process import shim
from partitiond.engines.process.journal import run_folders
from partitiond.engines.process.signals import (
    all_pids,
    cgroup_of,
    folder_of_mark,
    folder_of_shim,
)
from partitiond.platform.process_identity import stat_fields


def owners(run_dir: Path) -> dict[int, str]:
    """Return the replica id, by pid, of every living process of every engine below `run_dir`.

    A process is an engine's if it is in the session of the engine's shim, or if its environment
    names the engine's run folder, or if it is in the cgroup of an engine of another user.

    Raises OSError: a shortage.
    """
    found: dict[int, str] = {}
    folders: dict[str, str] = {}
    for folder in run_folders(run_dir):
        launch = folder.launch()
        if launch is None:
            continue
        folders[str(folder.path)] = launch.replica_id
        found |= dict.fromkeys(shim.cgroup_pids(cgroup_of(folder.path)), launch.replica_id)
    if not folders:
        return {}
    of_session = functools.cache(folder_of_shim)
    for pid in all_pids():
        fields = stat_fields(pid)
        owner = folders.get(of_session(int(fields[3]))) if fields else None
        owner = owner or folders.get(folder_of_mark(pid))
        if fields and owner:
            found[pid] = owner
    return found
