"""Several workloads share one run."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import (
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


def test_shares_are_kept() -> None:
    factory = MixFactory(mix(a=0.7, b=0.2, c=0.1))
    counts = Counter(factory.request(i).stream for i in range(20_000))
    for name, share in (("a", 0.7), ("b", 0.2), ("c", 0.1)):
        assert counts[name] / 20_000 == pytest.approx(share, abs=0.012)


@given(st.integers(0, 10**6))
def test_a_request_of_a_mix_is_a_function_of_its_position(index: int) -> None:
    one, two = MixFactory(mix(a=2, b=1)), MixFactory(mix(a=2, b=1))
    request = one.request(index)
    assert request == two.request(index)
    assert json.loads(request.body)["model"] == request.stream
    assert one.output_tokens(index) == 4


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "at least one"),
        ((Part("a", Workload("a"), 1), Part("a", Workload("b"), 1)), "differ"),
        ((Part("a", Workload("a"), 0),), "above 0"),
        (
            (Part("a", Workload("a", lengths=lengths.in_order([(1, 1)])), 1),),
            "arrivals of its own",
        ),
    ],
)
def test_impossible_mixes_are_refused(parts: tuple[Part, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mix(parts)


def test_streams_are_merged_in_the_order_they_are_due() -> None:
    streams = [
        Stream("fast", Workload("f"), constant(10)),
        Stream("slow", Workload("s"), iter([0.25, 0.5])),
    ]
    due = [(one.at, one.index) for one, _ in zip(merged(streams), range(8), strict=False)]
    assert due == sorted(due, key=lambda pair: pair[0])
    assert [at for at, _ in due][:5] == [0.0, 0.1, 0.2, 0.25, 0.3]
    with pytest.raises(ValueError, match="different names"):
        merged([streams[0], streams[0]])


async def test_an_open_loop_of_a_mix_reports_each_part(server: Any) -> None:
    result = await open_loop(
        server.socket_path, mix(a=1, b=1), arrivals=poisson(100, 2), seconds=0.5
    )
    run = run_of_open(result, {"": Slo(5, 5), "b": Slo(1e-9, 5)})
    report = report_of(run)
    assert [part.stream for part in report.streams] == ["a", "b"]
    assert sum(part.completed for part in report.streams) == report.completed
    first, second = report.streams
    assert (first.attainment, second.attainment) == (1.0, 0.0), "each by its own SLO"
    assert report.goodput_req_per_s == first.goodput_req_per_s
    assert {body["model"] for body in server.bodies} == {"a", "b"}


async def test_streams_keep_their_own_arrivals_and_endpoints(server: Any) -> None:
    from loadgen import Endpoint

    streams = [
        Stream("often", Workload("a", 4, 3), constant(40)),
        Stream("rarely", Workload("b", 4, 5, endpoint=Endpoint.CHAT), constant(10)),
    ]
    result = await open_streams(server.socket_path, streams, seconds=0.5)
    counts = Counter(record.stream for record in result.records)
    assert counts == {"often": 20, "rarely": 5}
    wanted = {(r.stream, r.wanted_output_tokens) for r in result.records}
    assert wanted == {("often", 3), ("rarely", 5)}
    paths = Counter(head.split(b" ")[1] for head in server.headers)
    assert paths == {b"/v1/completions": 20, b"/v1/chat/completions": 5}


async def test_a_closed_loop_takes_a_mix(server: Any) -> None:
    result = await closed_loop(server.socket_path, mix(a=3, b=1), concurrency=4, window=fixed(0.4))
    counts = Counter(record.stream for record in result.records)
    assert counts["a"] > counts["b"] > 0


async def test_slots_ramp_by_their_own_drawn_lengths(server: Any) -> None:
    drawn = lengths.independent([4], [8, 40])
    load = Workload("m", lengths=drawn, seed=3)
    await closed_loop(server.socket_path, load, concurrency=4, window=fixed(0.2))
    outputs = [drawn.pair(i, 3)[1] for i in range(4)]
    expected = sorted(-(-output * (i + 1) // 4) for i, output in enumerate(outputs))
    assert sorted(body["max_tokens"] for body in server.bodies[:4]) == expected
    assert {body["max_tokens"] for body in server.bodies[4:]} <= {8, 40}


async def test_no_request_is_sent_before_it_is_due(server: Any) -> None:
    result = await open_loop(
        server.socket_path, Workload("m", 4, 2), arrivals=constant(200), seconds=0.5
    )
    assert all(r.sent >= r.scheduled for r in result.records if r.sent and r.scheduled)


async def test_arrivals_beyond_the_limit_wait_and_their_wait_counts(server: Any) -> None:
    server.behaviour.step_seconds = 0.02
    result = await open_loop(
        server.socket_path,
        Workload("m", 4, 5),
        arrivals=constant(100),
        seconds=0.1,
        max_in_flight=2,
    )
    assert server.most_in_flight == 2
    latencies = sorted(r.e2el for r in result.records if r.e2el is not None)
    assert len(latencies) == 10
    assert latencies[-1] > 0.35, "five rounds of 0.1 s, two at a time, all due within 0.1 s"
    with pytest.raises(ValueError, match="max_in_flight"):
        await open_loop(
            server.socket_path, Workload("m"), arrivals=constant(1), seconds=1, max_in_flight=0
        )
