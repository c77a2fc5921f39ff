"""Combines replication runs of one mode from several trials. Pure."""

from collections.abc import Sequence

from partitiond.core.profile.sharing import ReplicationRun


def union_of(
    known: Sequence[ReplicationRun], new: Sequence[ReplicationRun]
) -> tuple[ReplicationRun, ...]:
    """All runs, by number of replicas; a repeated run replaces the earlier one."""
    latest = {_kind(run): run for run in (*known, *new)}
    return tuple(latest[kind] for kind in sorted(latest))


def _kind(run: ReplicationRun) -> tuple[int, int, int]:
    return run.replicas, run.batch_each, run.cores_each
