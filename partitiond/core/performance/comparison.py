"""Compares kinds of devices by what each delivers within the SLO.

The paper leaves open whether small devices or several replicas on a large one are better. The
answer here is per device, because users pay for devices: the best number of replicas on the
device, and their rate together.
"""

import dataclasses
from collections.abc import Sequence

from partitiond.core.hardware.kinds import HardwareSpec
from partitiond.core.performance.estimate_report import EstimateReport
from partitiond.core.performance.replicas import Replication, best_replication
from partitiond.core.profile.points import LimitedBy


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceOption:
    """One kind of device, filled as well as possible.

    Attributes:
        hardware: key of the hardware.
        partition: of each replica: "whole" means the device, shared as `mode` says.
        mode: how the replicas share the device; empty if none fits.
        replicas: on one device.
        batch: of each replica.
        req_per_s, output_tokens_per_s: of the device, closed loop.
        ttft_p95_seconds, tpot_p95_seconds: of each replica beside the others.
        alone_req_per_s: of one replica that has the device to itself, within the SLO.
        devices_to_match: number of devices that match the strongest device of the comparison.
        reason: why the device serves nothing; empty if it serves.
    """

    hardware: str
    partition: str
    mode: str = ""
    replicas: int = 0
    batch: int = 0
    req_per_s: float = 0.0
    output_tokens_per_s: float = 0.0
    ttft_p95_seconds: float | None = None
    tpot_p95_seconds: float | None = None
    alone_req_per_s: float = 0.0
    devices_to_match: float | None = None
    reason: str = ""


def compare(
    estimates: Sequence[tuple[HardwareSpec, EstimateReport]],
) -> tuple[DeviceOption, ...]:
    """Return one option per estimate, in the order given; all of one model and workload."""
    best = [(spec, report, best_replication(report.replications)) for spec, report in estimates]
    strongest = max((found.req_per_s for _, _, found in best if found), default=0.0)
    return tuple(_option(spec, report, found, strongest) for spec, report, found in best)


def _option(
    spec: HardwareSpec, report: EstimateReport, found: Replication | None, strongest: float
) -> DeviceOption:
    if found is None:
        misfit = not report.points and report.limited_by is LimitedBy.MEMORY
        reason = "does not fit" if misfit else "no batch holds the SLO"
        return DeviceOption(spec.key, report.partition, reason=reason)
    return DeviceOption(
        hardware=spec.key,
        partition=report.partition,
        mode=found.mode.value,
        replicas=found.replicas,
        batch=found.batch,
        req_per_s=found.req_per_s,
        output_tokens_per_s=found.output_tokens_per_s,
        ttft_p95_seconds=found.ttft_p95_seconds,
        tpot_p95_seconds=found.tpot_p95_seconds,
        alone_req_per_s=report.throughput_req_per_s,
        devices_to_match=strongest / found.req_per_s,
    )
