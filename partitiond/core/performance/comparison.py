"""Compares kinds of devices by what each delivers within the SLO.

The paper leaves open whether small devices or several replicas on a large one are better. The
answer here is per device, because users pay for devices: the best number of replicas on the
device, their rate together, and the cost of a million tokens at the user's prices.
"""

import dataclasses
from collections.abc import Sequence

from partitiond.core.hardware.kinds import HardwareSpec
from partitiond.core.hardware.prices import TokenPrices, cost_per_million
from partitiond.core.model.workload import Workload
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
        price_per_hour: of one device; None without a price.
        cost_per_million_output_tokens: at `output_tokens_per_s`.
        cost_per_million_tokens: prompt and output tokens together.
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
    price_per_hour: float | None = None
    cost_per_million_output_tokens: float | None = None
    cost_per_million_tokens: float | None = None
    reason: str = ""


def compare(
    estimates: Sequence[tuple[HardwareSpec, EstimateReport]],
    workload: Workload,
    prices: TokenPrices | None,
) -> tuple[DeviceOption, ...]:
    """Return one option per estimate, in the order given.

    Args:
        estimates: of the same model and workload on different hardware.
        workload: request shape, for the cost of a request's tokens.
        prices: of the user; None without prices.
    """
    best = [(spec, report, best_replication(report.replications)) for spec, report in estimates]
    strongest = max((found.req_per_s for _, _, found in best if found), default=0.0)
    return tuple(
        _option(spec, report, found, strongest, workload, prices) for spec, report, found in best
    )


def _option(  # noqa: PLR0917
    spec: HardwareSpec,
    report: EstimateReport,
    found: Replication | None,
    strongest: float,
    workload: Workload,
    prices: TokenPrices | None,
) -> DeviceOption:
    price = prices.of(spec) if prices is not None else None
    if found is None:
        misfit = not report.points and report.limited_by is LimitedBy.MEMORY
        reason = "does not fit" if misfit else "no batch holds the SLO"
        return DeviceOption(spec.key, report.partition, price_per_hour=price, reason=reason)
    all_tokens = found.output_tokens_per_s * (1 + workload.moments.p / workload.moments.o)
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
        price_per_hour=price,
        cost_per_million_output_tokens=_cost(price, found.output_tokens_per_s),
        cost_per_million_tokens=_cost(price, all_tokens),
    )


def _cost(price: float | None, tokens_per_s: float) -> float | None:
    return None if price is None else cost_per_million(price, tokens_per_s)


def cheapest(options: Sequence[DeviceOption]) -> DeviceOption | None:
    """Return the option with the least cost per token; None without prices."""
    priced = [o for o in options if o.cost_per_million_output_tokens is not None]
    return min(priced, key=lambda o: o.cost_per_million_output_tokens or 0.0, default=None)
