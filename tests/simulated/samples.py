"""Holds small plans and engines for the tests of the simulation."""

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import MemoryShare, PartitionSize, WholeDevice
from partitiond.core.model.workload import Workload
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import (
    Candidate,
    Certificate,
    ModelForecast,
    Objective,
    Placement,
    Plan,
    Status,
)
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import GIB, Bytes
from partitiond.simulated.fleet.engine import FleetRequest, TokenListener
from partitiond.simulated.fleet.engine_model import EngineModel
from partitiond.simulated.fleet.events import SimulatedClock
from tests.planner.build import gpu

WORKLOAD = Workload(prompt_tokens=32, output_tokens=16)
STEP_SECONDS = 0.01
BATCH = 8
NO_LOSS = Interference(kappa_memory=0.0)
"""Replicas share the device's time and lose nothing by it."""

X = BATCH * 16 / (17 * STEP_SECONDS)
"""Tokens/s of a closed loop: a request takes its 16 steps, and misses one before them."""


def candidate(
    model: str,
    *,
    mode: SharingMode = SharingMode.WHOLE,
    busy: float = 1.0,
    share: float = 0.8,
    profile_id: str = "profile",
) -> Candidate:
    """An engine of `BATCH` slots whose step takes `STEP_SECONDS`, planned at `share` of its X."""
    gib = Bytes(GIB)
    return Candidate(
        model, profile_id, ProfileKind.MEASURED, "test", PartitionSize(mode, 1, 100), BATCH,
        gib, gib, share * X / WORKLOAD.output_tokens, X, 2 * STEP_SECONDS, STEP_SECONDS, busy=busy,
    )  # fmt: skip


class ConstantSteps:
    """A step is a step, whatever it does."""

    def __init__(self, seconds: float = STEP_SECONDS) -> None:
        self._seconds = seconds

    def step_seconds(self, decoding: int, prefill_tokens: int, kv_tokens: int = 0) -> float:
        assert decoding + prefill_tokens > 0
        assert kv_tokens >= decoding
        return self._seconds


class Noted(TokenListener):
    """When each request got its first and its last token, in their order."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock
        self.first: dict[FleetRequest, float] = {}
        self.last: dict[FleetRequest, float] = {}

    def first_token(self, request: FleetRequest) -> None:
        self.first[request] = self._clock.now

    def last_token(self, request: FleetRequest) -> None:
        self.last[request] = self._clock.now


def engine(_placement: Placement) -> EngineModel:
    """Every engine alike."""
    return EngineModel(ConstantSteps(), 100_000, 1000)


def plan(
    placed: dict[str, list[Candidate]], demands: dict[str, float | None], level: float = 1.0
) -> Plan:
    """A plan of these candidates on devices by id."""
    placements: list[Placement] = []
    for device_id, candidates in placed.items():
        for one in candidates:
            shared = one.size.mode is SharingMode.MEMORY
            partition = (MemoryShare if shared else WholeDevice)(device_id, one.memory_bytes)
            name = f"{one.model}-{len(placements) + 1}"
            placements.append(Placement(name, one.model, device_id, partition, one))
    forecasts = []
    for model, demand in demands.items():
        mine = [p.candidate for p in placements if p.model == model]
        forecasts.append(
            ModelForecast(
                model=model,
                replicas=len(mine),
                capacity_req_per_s=sum(c.capacity_req_per_s for c in mine) / level,
                demand_req_per_s=demand,
                ttft_p95_seconds=None,
                tpot_p95_seconds=None,
                profile_kind=ProfileKind.MEASURED,
            )
        )
    return Plan(
        id="plan",
        placements=tuple(placements),
        devices=tuple(device(name) for name in placed),
        forecasts=tuple(forecasts),
        unplaced=(),
        certificate=Certificate(Objective.MIN_DEVICES, 1, 1, 0, Status.OPTIMAL, "", 0.0),
        explanation=(),
        created_at="",
    )


def device(name: str, hardware: str = "test") -> Device:
    """A GPU."""
    modes = SharingMode.WHOLE, SharingMode.MEMORY
    return gpu(name, hardware=hardware, modes=modes)
