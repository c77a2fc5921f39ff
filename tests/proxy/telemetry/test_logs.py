"""Every log line that concerns a request or a replica names it."""

import json
import logging
from pathlib import Path

import pytest

from partitiond.proxy.telemetry.logs import JsonHandler, LogFile
from tests.proxy.conftest import MakeEngine, MakeProxy, replica, table


async def test_a_retried_request_names_both_replicas(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    broken = await make_engine(lambda _: ["close"], "broken")
    works = await make_engine(name="works")
    proxy = await make_proxy(table(replica(broken, "m-1"), replica(works, "m-2")), retry_share=1.0)
    while not any("attempt_failed" in line for line in proxy.log_lines):
        assert (await proxy.complete()).status_code == 200
    failed = next(json.loads(line) for line in proxy.log_lines if "attempt_failed" in line)
    assert failed["replica"] == "m-1"
    assert failed["model"] == "m"
    assert failed["kind"] in {"reset", "truncated"}
    ended = [json.loads(line) for line in proxy.log_lines if '"event":"request"' in line]
    (request,) = [line for line in ended if line["request_id"] == failed["request_id"]]
    assert (request["replica"], request["attempts"], request["outcome"]) == ("m-2", 2, "ok")


@pytest.mark.parametrize("extra", [{}, {"request_id": "req-1", "replica": "m-1"}])
def test_loggers_may_say_what_a_line_concerns(tmp_path: Path, extra: dict[str, str]) -> None:
    written: list[str] = []

    class Kept(LogFile):
        def write(self, line: str) -> None:
            written.append(line)

    handler = JsonHandler(Kept(None, max_bytes=1, backups=0))
    record = logging.LogRecord("x", logging.ERROR, "", 0, "it broke", (), None)
    for name, value in extra.items():
        setattr(record, name, value)
    handler.emit(record)
    (line,) = [json.loads(line) for line in written]
    assert {name: line[name] for name in extra} == extra
    assert "model" not in line
    assert line["message"] == "it broke"
