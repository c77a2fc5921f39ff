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
        min_window_seconds, max_window_seconds: limits of a sweep's windows.
        window_seconds: length of all other windows.
        servers: numbers of API server processes in step 3.
        few, many: replicas that steps 4, 14 and 15 start side by side.
        counts: numbers of them that are measured, on the same engines.
        sm_percents: SM percentages of step 8.
        large_replicas, outputs: numbers of replicas and output lengths in step 9.
        large_batch: requests in flight at the 2.7B model, over all replicas.
        paper_requests: number of requests in the paper's mode.
        planned_replicas: replicas that a daemon plans and serves in step 11; one is killed.
        contract: arguments of pytest in step 13.
        costs: expected costs, before any start was measured.
        reserve_seconds: seconds of the budget kept for stopping and the report.
    """

    name: str
    workload: Workload
    max_batch: int
    sweep_seconds: float
    min_window_seconds: float
    max_window_seconds: float
    window_seconds: float
    servers: tuple[int, ...]
    few: int
    many: int
    counts: tuple[int, ...]
    sm_percents: tuple[int, ...]
    large_replicas: tuple[int, ...]
    outputs: tuple[int, ...]
    large_batch: int
    paper_requests: int
    planned_replicas: int
    contract: tuple[str, ...]
    costs: Costs
    reserve_seconds: float


REAL: Final = Scale(
    name="gpu",
    workload=Workload(512, 256),
    max_batch=512,
    sweep_seconds=60.0,
    min_window_seconds=3.0,
    max_window_seconds=8.0,
    window_seconds=8.0,
    servers=(1, 2, 4),
    few=4,
    many=8,
    counts=(1, 2, 4, 8),
    sm_percents=(10, 25, 50, 100),
    large_replicas=(1, 2, 4, 8),
    outputs=(32, 64, 128, 256),
    large_batch=512,
    paper_requests=500,
    planned_replicas=4,
    contract=("-m", "gpu", "tests/contract"),
    # A cold start compiles and captures graphs: 40 to 70 s for small models; later starts half.
    costs=Costs(start_seconds=45.0, window_seconds=13.0),
    reserve_seconds=15.0,
)
"""The paper's workload: 512 tokens in, 256 out, batches up to 512."""

FAKE: Final = Scale(
    name="fake",
    workload=Workload(32, 8),
    max_batch=8,
    sweep_seconds=2.0,
    min_window_seconds=0.15,
    max_window_seconds=0.3,
    window_seconds=0.4,
    servers=(1, 2),
    few=2,
    many=3,
    counts=(1, 2, 3),
    sm_percents=(50,),
    large_replicas=(1, 2),
    outputs=(4, 8),
    large_batch=8,
    paper_requests=0,
    planned_replicas=2,
    contract=("-m", "not gpu", "tests/contract/test_device_provider.py"),
    costs=Costs(start_seconds=2.5, window_seconds=1.5),
    reserve_seconds=4.0,
)
"""For the automated test: runs every step, but gives no usable figures."""

QUICK: Final = (
    "1.facts",
    "1.mps",
    "2.opt-125m",
    "4.mps-few",
    "4.slices-few",
)
"""What is worth most, in some five minutes: what do replicas gain on this GPU?"""

FULL: Final = (
    *QUICK,
    "3.servers",
    "10.opt-125m",
    "16.qwen3-0.6b",
    "15.mps-few",
    "11.mps",
    "6.opt-1.3b",
    "7.mps",
    "12.mps",
    "8.sm",
    "5.opt",
    "3.eager",
    "14.mps-few",
    "7.slices",
    "11.memory",
    "11.mig",
    "15.slices-few",
    "14.slices-few",
    "9.replicas",
    "12.memory",
    "13.contract",
)

PAPER: Final = (
    "1.facts",
    "2.opt-125m",
    "6.opt-1.3b",
    "17.opt-2.7b",
    "17.opt-6.7b",
    "17.opt-13b",
    "4.slices-many",
    "14.slices-many",
    "4.mps-many",
    "14.mps-many",
    "9.replicas",
    "9.output",
    "5.opt",
)
"""What the paper's figures and Table 1 show, and MPS, which it leaves open."""

PLANS: Final = {"quick": QUICK, "full": FULL, "paper": PAPER}
"""Trials of each plan by the start of their names, in the order of value. All share results."""
