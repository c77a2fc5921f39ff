"""Defines the sizes of the steps: full on a GPU, small for simulated engines."""

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
        replicas: numbers of replicas in step 4.
        sm_percents: SM percentages of step 8.
        large_replicas, outputs: numbers of replicas and output lengths in step 9.
        large_batch: requests in flight at the 2.7B model, over all replicas.
        paper_requests: number of requests in the paper's mode.
        planned_replicas: replicas that a daemon plans and serves in step 11; one is killed.
        grid: numbers of replicas in steps 14 and 15, beside those of steps 4 and 9.
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
    replicas: tuple[int, ...]
    sm_percents: tuple[int, ...]
    large_replicas: tuple[int, ...]
    outputs: tuple[int, ...]
    large_batch: int
    paper_requests: int
    planned_replicas: int
    grid: tuple[int, ...]
    contract: tuple[str, ...]
    costs: Costs
    reserve_seconds: float


FULL: Final = Scale(
    name="full",
    workload=Workload(512, 256),
    max_batch=512,
    sweep_seconds=180.0,
    min_window_seconds=5.0,
    max_window_seconds=20.0,
    window_seconds=10.0,
    servers=(1, 2, 4),
    replicas=(2, 4),
    sm_percents=(10, 25, 50, 100),
    large_replicas=(1, 2, 4, 8),
    outputs=(32, 64, 128, 256),
    large_batch=512,
    paper_requests=500,
    planned_replicas=4,
    grid=(8, 3, 6, 5, 7),
    contract=("-m", "gpu", "tests/contract"),
    # A cold start compiles and captures graphs: 40 to 70 s for small models; later starts half.
    costs=Costs(start_seconds=70.0, window_seconds=16.0),
    reserve_seconds=15.0,
)
"""The paper's workload: 512 tokens in, 256 out, batches up to 512, 500 requests."""

FAKE: Final = Scale(
    name="fake",
    workload=Workload(32, 8),
    max_batch=8,
    sweep_seconds=2.0,
    min_window_seconds=0.15,
    max_window_seconds=0.3,
    window_seconds=0.4,
    servers=(1, 2),
    replicas=(2,),
    sm_percents=(50,),
    large_replicas=(1, 2),
    outputs=(4, 8),
    large_batch=8,
    paper_requests=0,
    planned_replicas=2,
    grid=(3,),
    contract=("-m", "not gpu", "tests/contract/test_device_provider.py"),
    costs=Costs(start_seconds=2.5, window_seconds=1.5),
    reserve_seconds=4.0,
)
"""For the automated test: runs every step, but gives no usable figures."""
