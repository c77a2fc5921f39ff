"""Engines that outgrow their shares of a device."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_CHECKS: Final = "partitiond/core/hardware/partition_checks.py"
_RECONCILE: Final = "partitiond/core/replica/reconcile.py"
_WATCH: Final = "partitiond/controller/runtime/memory_watch.py"
_HOLDERS: Final = "partitiond/devices/partitions/memory.py"

MEMORY: Final[tuple[Rule, ...]] = (
    rule(
        "An engine has outgrown its share when all newest looks find it beyond the tolerance.",
        "tests/core/hardware/test_partition_checks.py",
        wrong=(
            (
                _CHECKS,
                "min(newest) > budget_bytes + tolerance_bytes",
                "max(newest) > budget_bytes + tolerance_bytes",
            ),
            (
                _CHECKS,
                "min(newest) > budget_bytes + tolerance_bytes",
                "min(newest) >= budget_bytes + tolerance_bytes",
            ),
            (
                _CHECKS,
                "min(newest) > budget_bytes + tolerance_bytes",
                "min(newest) > budget_bytes",
            ),
            (_CHECKS, "return len(newest) == looks and", "return bool(newest) and"),
            (_CHECKS, "newest = held_bytes[-looks:]", "newest = held_bytes[:looks]"),
        ),
    ),
    rule(
        "It is drained although it is wanted, alone of its model, and started once it is gone.",
        "tests/core/replica/test_reconcile.py",
        "tests/property/test_reconcile_histories.py",
        wrong=(
            (_RECONCILE, "leaving |= _outgrown(here, changing)", "_outgrown(here, changing)"),
            (
                _RECONCILE,
                "if placement.replica_id in here.held_back or _held_by_outgrown(placement, here):",
                "if placement.replica_id in here.held_back:",
            ),
            (
                _RECONCILE,
                "stay = under_way | changing | (missing - _blocked(here)) | here.asleep.keys()",
                "stay = under_way | changing | here.asleep.keys()",
            ),
            (
                _RECONCILE,
                "stay = under_way | changing | (missing - _blocked(here)) | here.asleep.keys()",
                "stay = under_way | changing | (missing - _blocked(here))",
            ),
            (
                _RECONCILE,
                "found.setdefault(replica.placement.model, key_of(replica))",
                "found.setdefault(replica.generation, key_of(replica))",
            ),
        ),
    ),
    rule(
        "Looks count for the process that was seen; what is not seen ends nothing.",
        "tests/controller/runtime/test_memory_watch.py",
        "tests/devices/partitions/test_shares.py",
        wrong=(
            (
                _WATCH,
                "held = (*self._held.get(engine.generation, ()), share.held_bytes)"
                "[-OUTGROWN_LOOKS:]\n        self._held[engine.generation] = held",
                "held = (*self._held.get(engine.name, ()), share.held_bytes)"
                "[-OUTGROWN_LOOKS:]\n        self._held[engine.name] = held",
            ),
            (
                _WATCH,
                "tolerance = tolerance_bytes(share.budget_bytes)",
                "tolerance = -share.budget_bytes",
            ),
            (
                _WATCH,
                "self.outgrown &= {engine.generation for engine in live}",
                "self.outgrown |= {engine.generation for engine in live}",
            ),
            (
                _HOLDERS,
                "if share.device_id == device_id and held is not None:",
                "if share.device_id == device_id and held:",
            ),
            (
                _HOLDERS,
                "if isinstance(there.partition, MemoryShare | MpsShare)\n        }\n        owners",
                "if isinstance(there.partition, MemoryShare)\n        }\n        owners",
            ),
            (
                _HOLDERS,
                "continue  # whoever looks at devices says so",
                "raise",
            ),
        ),
    ),
    rule(
        "A whole GPU is empty when nobody computes on it, whatever the host's pages take.",
        "tests/devices/partitions/test_control.py",
        "tests/devices/gpus/test_discovery.py::test_only_outside_of_containers_all_processes_are_told",
        wrong=(
            (_HOLDERS, "(use.all_told or use.used_bytes <= SLACK_BYTES)", "use.all_told"),
            (
                _HOLDERS,
                "(use.all_told or use.used_bytes <= SLACK_BYTES)",
                "use.used_bytes <= SLACK_BYTES",
            ),
            (_HOLDERS, "if not there and (use.all_told", "if (use.all_told"),
            (_HOLDERS, "    if not there and (use.all_told", "    if True or (use.all_told"),
            (
                "partitiond/devices/partitions/gpus.py",
                "            all_told=self._host_pids,\n",
                "",
            ),
        ),
    ),
)
