"""Defines what further starts and trials add to a sweep: memory, capacity, paper mode, a fit."""

import dataclasses

from partitiond.core.units import Bytes


@dataclasses.dataclass(frozen=True, slots=True)
class StepTime:
    """The engine's step time t = a + b (tokens computed) + c (sequences) + d (KV tokens read).

    Attributes:
        base_seconds: a.
        per_token_seconds: b, per token computed (prompt tokens and one for each decode).
        per_sequence_seconds: c, per sequence in the step.
        per_kv_token_seconds: d, per KV token read by attention.
        residual_share: root mean square of the relative error over what it was fitted to.
        points: operating points it was fitted to.
        workloads: their different workloads. With one, b, c and d grow together and only their
            sum is known: it is then kept in c alone, and the fit predicts batches, not lengths.
    """

    base_seconds: float
    per_token_seconds: float
    per_sequence_seconds: float
    per_kv_token_seconds: float
    residual_share: float
    points: int
    workloads: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class FrontierMemory:
    """The least footprint at which throughput at the knee stays, and the start that confirmed it.

    Attributes:
        batch: the knee it is for (or the largest batch).
        kv_cache_bytes: KV cache of the confirming start.
        footprint_bytes: peak memory of that engine, through its trial.
        output_tokens_per_s, half_width: throughput there; None where it was not measured.
        preemptions: requests preempted in the trial.
        confirmed: throughput with its own half-width reached (1 - e) of what the sweep found, and
            nothing was preempted.
        starts: engine starts it took to find.
        share_of_best: throughput there by the one it is compared with: X* at the knee, elsewhere
            what the sweep measured at this batch. None where it was not measured.
    """

    batch: int
    kv_cache_bytes: Bytes
    footprint_bytes: Bytes
    output_tokens_per_s: float | None
    half_width: float | None
    preemptions: int
    confirmed: bool
    starts: int = 1
    share_of_best: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class CapacityTrial:
    """One open-loop trial at the operating point, limited to its batch.

    Attributes:
        batch: limit in sequences.
        req_per_s: Poisson rate that was offered.
        attainment: share of arrivals within the SLO (without one: that ended without error).
        seconds: window.
        held: the rate can go on for ever, and the SLO held at its quantile.
        arrivals: counted requests; 0 where it was not kept.
        attainment_interval: 95 % interval of the attainment.
        utilisation, utilisation_half_width: share of the batch's places that the rate needs
            (rate times mean time in the engine by the batch); held only where all of its 95 %
            interval lies below 1. None where it was not kept, or too few requests ended.
    """

    batch: int
    req_per_s: float
    attainment: float
    seconds: float
    held: bool
    arrivals: int = 0
    attainment_interval: tuple[float, float] | None = None
    utilisation: float | None = None
    utilisation_half_width: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class PaperMode:
    """The paper's figures: all requests at once, throughput by the makespan.

    Attributes:
        requests: sent at once (the paper's 500, or fewer on a slow device: it says how many).
        batch: the engine's limit in sequences.
        req_per_s: requests / makespan.
        output_tokens_per_s: output tokens / makespan.
        mean_e2el_seconds: mean end-to-end latency, waiting included.
    """

    requests: int
    batch: int
    req_per_s: float
    output_tokens_per_s: float
    mean_e2el_seconds: float
