"""Several workloads share one run."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import (
    Endpoint,
    Mix,
    Part,
    Slo,
    Stream,
    Workload,
    closed_loop,
    constant,
    fixed,
    lengths,
    open_loop,
    open_streams,
    poisson,
    report_of,
    run_of_open,
)
from loadgen.load.mix import MixFactory, merged


def mix(**shares: float) -> Mix:
    parts = tuple(Part(name, Workload(name, 4, 4), share) for name, share in shares.items())
    return Mix(parts, seed=1)


def test_shares_are_kept_and_impossible_mixes_refused() -> None:
    factory = MixFactory(mix(a=0.7, b=0.2, c=0.1))
    counts = Counter(factory.request(i).stream for i in range(20_000))
    for name, share in (("a", 0.7), ("b", 0.2), ("c", 0.1)):
        assert counts[name] / 20_000 == pytest.approx(share, abs=0.012)
    own = Workload("a", lengths=lengths.in_order([(1, 1)]))
    for parts, message in (
        ((), "at least one"),
        ((Part("a", Workload("a"), 1), Part("a", Workload("b"), 1)), "differ"),
        ((Part("a", Workload("a"), 0),), "above 0"),
        ((Part("a", own, 1),), "arrivals of its own"),
    ):
        with pytest.raises(ValueError, match=message):
            Mix(parts)


@given(st.integers(0, 10**6))
def test_a_request_of_a_mix_is_a_function_of_its_position(index: int) -> None:
    one, two = MixFactory(mix(a=2, b=1)), MixFactory(mix(a=2, b=1))
    request = one.request(index)
    assert request == two.request(index)
    assert json.loads(request.body)["model"] == request.stream
    assert one.output_tokens(index) == 4


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


async def test_an_open_loop_of_a_mix_reports_each_part(server: Any) -> None:
    result = await open_loop(
        server.socket_path, mix(a=1, b=1), arrivals=poisson(100, 2), seconds=0.5
    )
    report = report_of(run_of_open(result, {"": Slo(5, 5), "b": Slo(1e-9, 5)}))
    first, second = report.streams
    assert (first.stream, second.stream) == ("a", "b")
    assert first.completed + second.completed == report.completed
    assert (first.attainment, second.attainment) == (1.0, 0.0), "each by its own SLO"
    assert report.goodput_req_per_s == first.goodput_req_per_s
    assert {body["model"] for body in server.bodies} == {"a", "b"}


async def test_streams_keep_their_own_arrivals_and_endpoints(server: Any) -> None:
    streams = [
        Stream("often", Workload("a", 4, 3), constant(40)),
        Stream("rarely", Workload("b", 4, 5, endpoint=Endpoint.CHAT), constant(10)),
    ]
    result = await open_streams(server.socket_path, streams, seconds=0.5)
    counts = Counter((r.stream, r.wanted_output_tokens) for r in result.records)
    assert counts == {("often", 3): 20, ("rarely", 5): 5}
    paths = Counter(head.split(b" ")[1] for head in server.headers)
    assert paths == {b"/v1/completions": 20, b"/v1/chat/completions": 5}


async def test_a_closed_loop_takes_a_mix_and_ramps_by_drawn_lengths(server: Any) -> None:
    result = await closed_loop(server.socket_path, mix(a=3, b=1), concurrency=4, window=fixed(0.4))
    counts = Counter(record.stream for record in result.records)
    assert counts["a"] > counts["b"] > 0
    server.bodies.clear()
    drawn = lengths.independent([4], [8, 40])
    load = Workload("m", lengths=drawn, seed=3)
    await closed_loop(server.socket_path, load, concurrency=4, window=fixed(0.2))
    outputs = [drawn.pair(i, 3)[1] for i in range(4)]
    expected = sorted(-(-output * (i + 1) // 4) for i, output in enumerate(outputs))
    assert sorted(body["max_tokens"] for body in server.bodies[:4]) == expected
    assert {body["max_tokens"] for body in server.bodies[4:]} <= {8, 40}
