"""Isolation groups: a GPU's MPS daemon serves one."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_ROOM: Final = "partitiond/core/hardware/room.py"
_PARTITION: Final = "partitiond/core/hardware/partition.py"
_LEASES: Final = "partitiond/core/replica/leases.py"
_SLEEP: Final = "partitiond/core/replica/sleep.py"
_INSTANCE: Final = "partitiond/planner/model/instance.py"
_ASSIGN: Final = "partitiond/planner/pack/assign.py"
_TYPES: Final = "partitiond/planner/model/types.py"
_OUTAGE: Final = "partitiond/planner/search/without_outage.py"
_DEVICES: Final = "partitiond/planner/check/devices.py"
_CHANGES: Final = "partitiond/planner/check/changes.py"
_PAIRS: Final = "partitiond/profiler/pairs/pairs.py"
_JOBS: Final = "partitiond/controller/profiles/job_room.py"
_HOLDERS: Final = "partitiond/devices/partitions/memory.py"

GROUPS: Final[tuple[Rule, ...]] = (
    rule(
        "No plan puts two isolation groups on one GPU under MPS, and none is worse for it.",
        "tests/planner/pack/test_rules.py",
        wrong=(
            (
                _INSTANCE,
                "return item.way == way and (",
                "return item.way[0] is way[0] and (",
            ),
            (
                _INSTANCE,
                "demand.isolation_group if mode is SharingMode.MPS else",
                "demand.isolation_group if True else",
            ),
            (_INSTANCE, "or device.mps_group in {None, item.way[1]})", "or True)"),
            (
                _ASSIGN,
                "percent, group = candidate.size.sm_percent, it.way[1]",
                'percent, group = candidate.size.sm_percent, ""',
            ),
            (_TYPES, "(candidate.model, candidate.variant, way[1])", "(candidate.model, way[0])"),
            (
                _OUTAGE,
                "group = max(way_of(p.partition)[1] for p in running)",
                "group = model.isolation_group",
            ),
        ),
    ),
    rule(
        "The checker refuses two isolation groups on one GPU under MPS, whoever planned it.",
        "tests/planner/check/test_devices.py",
        "tests/planner/check/test_changes.py",
        "tests/planner/pack/test_rules.py",
        wrong=(
            (_DEVICES, "if group != serves[0][1]:", "if group < serves[0][1]:"),
            (_DEVICES, "if group != share.isolation_group:", "if False:"),
            (_DEVICES, "* (device.mps_group is not None)", "* 0"),
            (_DEVICES, "serves = serves or [(p.model, group)]", "serves = [(p.model, group)]"),
            (_CHANGES, "if not same or share.mode", "if share.mode"),
            (
                _CHANGES,
                'isolation_group=max((way_of(p.partition)[1] for p in old), default="")',
                "isolation_group=demands[held.model].isolation_group",
            ),
        ),
    ),
    rule(
        "No engine starts under MPS while one of another isolation group is on the GPU.",
        "tests/core/replica/test_reconcile.py",
        "tests/property/test_reconcile_histories.py",
        wrong=(
            (_ROOM, "return way_of(one) != way_of(other)", "return one.mode != other.mode"),
            (
                _PARTITION,
                "return partition.mode, partition.isolation_group if",
                'return partition.mode, "" if',
            ),
            (
                _ROOM,
                "if any(overlap(partition, other) for other in beside):",
                "if beside and all(overlap(partition, other) for other in beside[2:]):",
            ),
        ),
    ),
    rule(
        "A measurement under MPS waits for a daemon of its model's isolation group.",
        "tests/core/replica/test_leases.py",
        "tests/core/replica/test_sleep.py",
        "tests/controller/profiles/test_job_room.py",
        "tests/profiler/pairs/test_pairs.py",
        "tests/devices/partitions/test_shares.py",
        wrong=(
            (_LEASES, "if groups - {wish.isolation_group}:", "if len(groups) > 1:"),
            (_LEASES, "| ({device.mps_group} - {None})", ""),
            (_LEASES, "mps_group=lease.isolation_group", "mps_group=None"),
            (_LEASES, 'group = isolation_group if "sm_percent" in params else ""', 'group = ""'),
            (_JOBS, 'wish_of_job(job, host.groups.get(job.subject, ""))', "wish_of_job(job)"),
            (_SLEEP, "mps_group=next(iter(groups), device.mps_group)", "mps_group=None"),
            (_PAIRS, "    require_one_group(mode, pair)\n", ""),
            (_PAIRS, "if mode is SharingMode.MPS and first", "if first"),
            (_HOLDERS, "            if group != mine:", "            if False:"),
        ),
    ),
)
