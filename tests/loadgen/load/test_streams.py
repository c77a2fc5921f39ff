"""Several workloads share one run."""

from collections import Counter
from typing import Any

import pytest

from loadgen import (
    Endpoint,
    Slo,
    Stream,
    Workload,
    closed_loop,
    constant,
    fixed,
    lengths,
    open_streams,
    report_of,
    run_of_open,
)
from loadgen.load.streams import merged


def test_streams_are_merged_in_the_order_they_are_due() -> None:
    streams = [
        Stream("fast", Workload("f"), constant(10)),
        Stream("slow", Workload("s"), iter([0.25, 0.5])),
    ]
    due = [one.at for one, _ in zip(merged(streams), range(8), strict=False)]
    assert due == sorted(due)
    assert due[:5] == [0.0, 0.1, 0.2, 0.25, 0.3]
    with pytest.raises(ValueError, match="different names"):
        merged([streams[0], streams[0]])


async def test_streams_keep_their_own_arrivals_endpoints_and_slos(server: Any) -> None:
    streams = [
        Stream("often", Workload("a", 4, 3), constant(40)),
        Stream("rarely", Workload("b", 4, 5, endpoint=Endpoint.CHAT), constant(10)),
    ]
    result = await open_streams(server.socket_path, streams, seconds=0.5)
    counts = Counter((r.stream, r.wanted_output_tokens) for r in result.records)
    assert counts == {("often", 3): 20, ("rarely", 5): 5}
    paths = Counter(received.path for received in server.received)
    assert paths == {"/v1/completions": 20, "/v1/chat/completions": 5}
    report = report_of(run_of_open(result, {"": Slo(5, 5), "rarely": Slo(1e-9, 5)}))
    first, second = report.streams
    assert [(one.stream, one.completed) for one in report.streams] == [("often", 20), ("rarely", 5)]
    assert (first.attainment, second.attainment) == (1.0, 0.0), "each by its own SLO"
    assert report.goodput_req_per_s == first.goodput_req_per_s


async def test_a_closed_loop_ramps_by_drawn_lengths(server: Any) -> None:
    drawn = lengths.independent([4], [8, 40])
    load = Workload("m", lengths=drawn, seed=3)
    await closed_loop(server.socket_path, load, concurrency=4, window=fixed(0.2))
    outputs = [drawn.pair(i, 3)[1] for i in range(4)]
    expected = sorted(-(-output * (i + 1) // 4) for i, output in enumerate(outputs))
    assert sorted(body["max_tokens"] for body in server.bodies[:4]) == expected
    assert {body["max_tokens"] for body in server.bodies[4:]} <= {8, 40}
