"""Finds the operating points of a profile by name: knee, SLO, goodput, energy, throughput.

A point that the KV cache limited is never chosen: its throughput is that of a smaller batch, and
requests are preempted there. Of points that are equally good, the smallest batch is chosen, because
it needs the least memory and answers soonest.
"""

from collections.abc import Iterable
from typing import Final

from partitiond.core.model.spec import PointName, Slo
from partitiond.core.profile.points import OperatingPoint
from partitiond.core.profile.record import Profile, holds_slo, operating_point

NAMED: Final = (
    PointName.KNEE,
    PointName.SLO,
    PointName.GOODPUT,
    PointName.ENERGY,
    PointName.THROUGHPUT,
)
"""Names of one specific point each; `PointName.DEFAULT` is one of them by the rule of the plan."""


def named_point(profile: Profile, name: PointName, slo: Slo | None) -> OperatingPoint | None:
    """Return the operating point of that name; None if the profile has none.

    - default: the knee; with an SLO, the largest batch up to the knee that holds it.
    - knee: the knee, whatever the SLO; where throughput still grew, the largest usable batch.
    - slo: the largest batch that holds the SLO, beyond the knee, too. None without an SLO.
    - goodput: the highest goodput. It is the measured one if the profile was measured under this
      SLO, else the throughput of the points whose percentiles hold it. None without an SLO.
    - energy: the least energy per output token, of the points that hold the SLO if there is one.
      None if energy was not exposed.
    - throughput: the highest throughput, of the points that hold the SLO if there is one.
    """
    usable = [point for point in profile.points if not point.kv_limited]
    holding = [point for point in usable if slo is None or holds_slo(point, slo, profile.slo)]
    match name:
        case PointName.KNEE:
            return operating_point(profile, None)
        case PointName.SLO:
            return max(holding, key=lambda p: p.batch, default=None) if slo is not None else None
        case PointName.GOODPUT:
            return _most_goodput(profile, usable, slo) if slo is not None else None
        case PointName.ENERGY:
            return _least_energy(holding)
        case PointName.THROUGHPUT:
            return max(holding, key=lambda p: (p.output_tokens_per_s, -p.batch), default=None)
        case _:
            return operating_point(profile, slo)


def goodput_req_per_s(profile: Profile, point: OperatingPoint, slo: Slo) -> float:
    """Return the requests/s of a point that hold the SLO.

    A measured goodput counts only for the SLO under which it was measured. For another SLO, all
    requests of a point count if the point's percentiles hold that SLO, and none otherwise.
    """
    if point.goodput_req_per_s is not None and profile.slo == slo:
        return point.goodput_req_per_s
    return point.req_per_s if holds_slo(point, slo, profile.slo) else 0.0


def _most_goodput(
    profile: Profile, points: Iterable[OperatingPoint], slo: Slo
) -> OperatingPoint | None:
    rated = [(goodput_req_per_s(profile, point, slo), -point.batch, point) for point in points]
    best = max(rated, key=lambda item: item[:2], default=None)
    return best[2] if best is not None and best[0] > 0 else None


def _least_energy(points: Iterable[OperatingPoint]) -> OperatingPoint | None:
    rated = [
        (point.joules_per_output_token, point.batch, point)
        for point in points
        if point.joules_per_output_token is not None
    ]
    return min(rated, key=lambda item: item[:2], default=(0.0, 0, None))[2]
