"""Jumps of the wall clock, forwards and backwards, change no decision while everything runs.

The monotonic clock is a separate one: it decides deadlines and back-offs.
"""

import itertools

import pytest

from partitiond.core.instants import utc_iso
from partitiond.core.model.spec import Demand
from tests.controller.fakes import FakeClock
from tests.controller.host import Host, serving
from tests.machine import until

DAY = 86400.0
START = 1_700_000_000.0
JUMPS = {
    "a day back": (0.0, -DAY),
    "ten years on and back": (0.0, 3650 * DAY, 0.0),
    "back and forth at each look": tuple(DAY * (-1) ** n * n for n in range(40)),
}


class JumpingClock(FakeClock):
    """A wall clock that somebody sets with each look at it."""

    def __init__(self, jumps: tuple[float, ...]) -> None:
        super().__init__()
        last = jumps[-1]
        self._walls = itertools.chain(jumps, itertools.repeat(last))
        self._looks = itertools.count()

    def utc_iso(self) -> str:
        return utc_iso(START + next(self._walls) + next(self._looks) * 0.001)


@pytest.mark.parametrize("jumps", JUMPS.values(), ids=JUMPS.keys())
async def test_the_whole_way_of_a_model_while_the_clock_jumps(jumps: tuple[float, ...]) -> None:
    async with serving(Host(clock=JumpingClock(jumps))) as here:
        await here.register("a", demand=Demand(req_per_s=1.0))
        await here.serves("a")
        before = set(here.runner.running())
        await here.restart()  # what runs is adopted, whatever the clock says
        await here.serves("a")
        assert set(here.runner.running()) == before
        kinds = here.kinds()
        assert kinds.index("model-registered") < kinds.index("engine-ready")  # in order still
        await here.service.models.remove("a")
        await until(lambda: not here.service.overview.replicas())
        await here.register("a", demand=Demand(req_per_s=1.0))
        await here.serves("a")
