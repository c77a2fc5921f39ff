"""Records how replicas that share a device were observed to affect each other."""

import dataclasses
import math

from partitiond.core.profile.points import Telemetry


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicationRun:
    """Replicas of one model side by side in the same total memory, under simultaneous load.

    Attributes:
        replicas: how many.
        mode: how they shared the device (a SharingMode's value).
        cores_each: host cores of each replica; on a CPU device its partition.
        batch_each: requests in flight at each.
        output_tokens_per_s: of each replica, in the common window.
        half_width: 95 % half-width of their sum.
        tpot_p95_seconds, ttft_p95_seconds: the worst replica's.
        windows: windows behind it, alternating with those of the other runs.
        telemetry: of the device through the windows; energy is that of all of them.
        instrument_cpu: most of one core that the load generator used in a window.
    """

    replicas: int
    mode: str
    cores_each: int
    batch_each: int
    output_tokens_per_s: tuple[float, ...]
    half_width: float
    tpot_p95_seconds: float
    ttft_p95_seconds: float
    windows: int
    telemetry: Telemetry | None = None
    instrument_cpu: float = 0.0

    @property
    def total_output_tokens_per_s(self) -> float:
        """Sum over the replicas."""
        return math.fsum(self.output_tokens_per_s)


@dataclasses.dataclass(frozen=True, slots=True)
class PairRun:
    """Two models side by side, each at its operating point: predicted from singles, then measured.

    Each tuple holds the first model's figure, then the other's.

    Attributes:
        models: their names.
        mode: how they shared the device (a SharingMode's value).
        cores_each: cores of each.
        batches: requests in flight at each.
        alone_output_tokens_per_s: of each alone, in windows that alternated with the pair's.
        predicted_output_tokens_per_s, predicted_tpot_p95_seconds: alone, and sigma.
        measured_output_tokens_per_s, measured_tpot_p95_seconds: side by side, common windows.
        half_widths: 95 % half-widths of the measured rates, in tokens/s.
        windows: windows behind each figure.
        instrument_cpu: most of one core that the load generator used in a window.
    """

    models: tuple[str, str]
    mode: str
    cores_each: tuple[int, int]
    batches: tuple[int, int]
    alone_output_tokens_per_s: tuple[float, float]
    predicted_output_tokens_per_s: tuple[float, float]
    measured_output_tokens_per_s: tuple[float, float]
    half_widths: tuple[float, float]
    predicted_tpot_p95_seconds: tuple[float, float]
    measured_tpot_p95_seconds: tuple[float, float]
    windows: int
    instrument_cpu: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Sharing:
    """What replication runs say about sharing this kind of device in one mode.

    Attributes:
        mode: a SharingMode's value.
        kappa: loss per further replica.
        busy: u, share of the shared resource one replica takes alone, 0..1.
        runs: what they were fitted to; empty where only pairs were measured: then kappa and busy
            are the mode's defaults.
        pairs: this model beside others, predicted and measured.
    """

    mode: str
    kappa: float
    busy: float
    runs: tuple[ReplicationRun, ...]
    pairs: tuple[PairRun, ...] = ()
