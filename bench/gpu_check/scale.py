"""Defines the sizes of the steps, real and simulated, and the order of value of the trials."""

import dataclasses
from typing import Final

from bench.gpu_check.schedule import Costs
from partitiond.core.model.workload import Workload


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of the steps.

    Attributes:
        workload: workload of every step, except for the output lengths of step 9.
        max_batch: largest batch of a sweep.
        sweep_seconds: measuring time of a sweep.
        min_window_seconds, window_seconds: a window is closed between the two as soon as its rate
            is certain.
        modes: ways of sharing that are measured, by the names of `steps.grid.MODES`.
        servers: numbers of API server processes of the single engines.
        few, many: replicas that steps 4, 14, 15 and 20 start side by side.
        counts: numbers of them that are measured, on the same engines.
        sm_percents: SM percentages of step 8.
        outputs, lengths_model: output lengths of step 9, and its model.
        memory_shares: shares of the memory in step 18, of engines side by side.
        ttft_seconds, tpot_seconds: bounds of a good request in open loop.
        open_shares: rates in open loop, by the rate that the plan promises.
        paper_requests: number of requests in the paper's mode.
        planned_replicas: replicas that a daemon plans and serves in step 11; one is killed.
        costs: expected costs, before any start was measured.
    """

    name: str
    workload: Workload
    max_batch: int
    sweep_seconds: float
    min_window_seconds: float
    window_seconds: float
    modes: tuple[str, ...]
    servers: tuple[int, ...]
    few: int
    many: int
    counts: tuple[int, ...]
    sm_percents: tuple[int, ...]
    outputs: tuple[int, ...]
    lengths_model: str
    memory_shares: tuple[float, ...]
    ttft_seconds: float
    tpot_seconds: float
    open_shares: tuple[float, ...]
    paper_requests: int
    planned_replicas: int
    costs: Costs


REAL: Final = Scale(
    name="gpu",
    workload=Workload(512, 256),
    max_batch=512,
    sweep_seconds=30.0,  # so that replicas under MPS fit behind it in four minutes
    min_window_seconds=3.0,
    window_seconds=8.0,
    modes=("mps", "slices"),
    servers=(1, 2, 4),
    few=4,
    many=8,
    counts=(1, 2, 4, 8),
    sm_percents=(10, 25, 50, 100),
    outputs=(32, 64, 128, 256),
    lengths_model="opt-6.7b",
    memory_shares=(0.06, 0.09, 0.15, 0.25, 0.35),
    ttft_seconds=1.0,
    tpot_seconds=0.05,
    open_shares=(0.75, 1.0),
    paper_requests=500,
    planned_replicas=4,
    # A cold start compiles and captures graphs: 40 to 70 s for small models; later starts half.
    costs=Costs(start_seconds=40.0, window_seconds=11.0, reserve_seconds=15.0),
)
"""The paper's workload: 512 tokens in, 256 out, batches up to 512."""

FAKE: Final = dataclasses.replace(
    REAL,
    name="fake",
    workload=Workload(32, 8),
    max_batch=8,
    sweep_seconds=2.0,
    min_window_seconds=0.15,
    window_seconds=0.4,
    servers=(1, 2),
    few=2,
    many=3,
    counts=(1, 2, 3),
    sm_percents=(50,),
    outputs=(4, 8),
    lengths_model="opt-125m",
    memory_shares=(0.2, 0.4),
    open_shares=(0.5,),
    paper_requests=0,
    planned_replicas=2,
    costs=Costs(start_seconds=2.5, window_seconds=1.5, reserve_seconds=4.0),
)
"""For the automated test: runs every step, but gives no usable figures."""

CPU: Final = dataclasses.replace(
    REAL,
    name="cpu",
    workload=Workload(64, 16),
    max_batch=16,
    sweep_seconds=40.0,
    modes=("cores",),
    servers=(1,),
    few=2,
    many=2,
    counts=(1, 2),
    memory_shares=(0.2, 0.4),
    paper_requests=0,
    planned_replicas=2,
)
"""Real engines on the host's CPU: all that needs no GPU of the plan `quick`."""

QUICK: Final = (
    "1.facts",
    "1.mps",
    "2.opt-125m",
    "4.mps-few",
    "4.cores-few",
    "5.opt-125m",
    "4.slices-few",
)
"""What is worth most: what do replicas gain? Under MPS in four minutes, time-sliced in six."""

FULL: Final = (
    *QUICK,
    "11.mps",
    "10.opt-125m",
    "16.qwen3-0.6b",
    "15.mps-few",
    "19.opt-125m",
    "18.memory",
    "6.opt-1.3b",
    "7.mps",
    "12.mps",
    "8.sm",
    "5.opt-1.3b",
    "1.differs",
    "3.eager",
    "14.mps-few",
    "7.slices",
    "11.memory",
    "11.mig",
    "15.slices-few",
    "14.slices-few",
    "12.memory",
)

PAPER: Final = (
    "1.facts",
    "1.mps",
    "2.opt-125m",
    "6.opt-1.3b",
    "17.opt-2.7b",
    "17.opt-6.7b",
    "17.opt-13b",
    "4.slices-many",
    "14.slices-many",
    "20.slices-few",
    "4.mps-many",
    "14.mps-many",
    "20.mps-few",
    "9.output",
    "13.llama-7b",
    "13.gpt-j-6b",
    "5.opt",
)
"""What the paper's figures and Table 1 show, and MPS, which it leaves open."""

PLANS: Final = {"quick": QUICK, "full": FULL, "paper": PAPER}
"""Trials of each plan by the start of their names, in the order of value. All share results."""
BUDGETS: Final = {"quick": 240.0, "full": 900.0, "paper": 720.0}
"""Seconds of each plan unless others are given."""
