"""Maps processes to engines, by one scan of /proc for all engines of a run folder."""

import os
from pathlib import Path

from partitiond.core.errors import InputError
from partitiond.engines.process import shim
from partitiond.engines.process.journal import run_folders
from partitiond.engines.process.signals import REPLICA_DIR_VARIABLE, leader_of, recorded
from partitiond.platform.process_identity import Identified, environment, is_alive, stat_fields


def owners(run_dir: Path) -> dict[int, str]:
    """Return the replica id, by pid, of every living process of every engine below `run_dir`.

    A process is an engine's if it is in the session of the engine's shim, or if its environment
    names the engine's run folder, or if it is in the cgroup of an engine of another user.
    `process.processes_of` applies this rule to one engine. Raises OSError: a shortage.
    """
    found: dict[int, str] = {}
    sessions: dict[int, str] = {}
    folders: dict[bytes, str] = {}
    for folder in run_folders(run_dir):
        launch = folder.launch()
        if launch is None:
            continue
        leader: Identified | None
        try:
            leader = record = recorded(folder.path)
        except InputError:
            leader, record = leader_of(folder.path), None
        folders[f"{REPLICA_DIR_VARIABLE}={folder.path}".encode()] = launch.replica_id
        cgroup = record.current_cgroup() if record else ""
        found |= dict.fromkeys(shim.cgroup_pids(cgroup), launch.replica_id)
        if leader is not None and is_alive(leader):
            sessions[leader.pid] = launch.replica_id
    if not folders:
        return {}
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                owner = _owner(int(entry.name), sessions, folders)
                if owner:
                    found[int(entry.name)] = owner
    return found


def _owner(pid: int, sessions: dict[int, str], folders: dict[bytes, str]) -> str:
    fields = stat_fields(pid)
    if not fields:
        return ""
    owner = sessions.get(int(fields[3]))
    if owner is not None:
        return owner
    return next((folders[v] for v in environment(pid) if v in folders), "")
