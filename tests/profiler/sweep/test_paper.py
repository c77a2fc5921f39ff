"""The paper's mode sends all requests at once, and takes throughput by the makespan."""

import pytest

from loadgen import Outcome, Record
from partitiond.core.errors import EngineError
from partitiond.profiler.sweep.paper import summarise


def record(index: int, end: float | None, outcome: Outcome = Outcome.OK) -> Record:
    return Record(index, scheduled=100.0, sent=100.0, end=end, outcome=outcome, output_tokens=50)


def test_throughput_is_requests_by_the_time_the_last_one_ends() -> None:
    mode = summarise([record(0, 105.0), record(1, 110.0), record(2, 120.0)], batch=2)
    assert mode.req_per_s == pytest.approx(3 / 20)
    assert mode.output_tokens_per_s == pytest.approx(150 / 20)
    assert mode.mean_e2el_seconds == pytest.approx(35 / 3)
    assert (mode.requests, mode.batch) == (3, 2)


def test_a_failed_request_leaves_no_makespan() -> None:
    with pytest.raises(EngineError, match="1 of 2"):
        summarise([record(0, 105.0), record(1, 106.0, Outcome.ERROR)], batch=2)
    with pytest.raises(EngineError):
        summarise([], batch=2)
