"""A client's trace goes on at the engine, and the client or a share decides what is recorded."""

import pytest

from partitiond.proxy.telemetry.tracing import place_in_trace
from tests.proxy.conftest import Make

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9/v1/traces", ""])
async def test_the_engine_gets_the_clients_place_where_it_sends_spans(
    make: Make, endpoint: str
) -> None:
    proxy, engine = await make.both(traces_endpoint=endpoint, traces_ratio=0)
    await proxy.complete(headers={"traceparent": GIVEN}, stream=True)
    assert engine.received[0].headers.get("traceparent") == (GIVEN if endpoint else None)
    assert proxy.records()[0].get("trace_id") == (TRACE if endpoint else None)


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_client_decides(flags: str) -> None:
    given = f" 00-{TRACE}-{SPAN}-{flags} ".encode()
    assert place_in_trace(given, 0.5) == (TRACE, b"\r\ntraceparent: " + given.strip())


@pytest.mark.parametrize(
    "given",
    [
        "00-xyz", f"01-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more", "",
    ],
)  # fmt: skip
def test_what_is_no_traceparent_is_in_no_trace(given: str) -> None:
    assert place_in_trace(given.encode(), 1.0) == ("", b"")
    trace_id, header = place_in_trace(given.encode(), 0.0)
    assert (trace_id, header[:18], header[-3:]) == ("", b"\r\ntraceparent: 00-", b"-00")
    assert TRACE.encode() not in header


def test_the_share_is_kept() -> None:
    for ratio in (0.0, 0.25, 1.0):
        count = sum(not place_in_trace(b"", ratio)[1] for _ in range(4000))
        assert abs(count - 4000 * ratio) <= 5 * 30, "five standard deviations"
