"""Every log line that concerns a request or a replica names it."""

import json
import logging

from partitiond.proxy.telemetry.logs import JsonHandler
from tests.proxy.conftest import ListLog, Make, replica, table
from tests.proxy.scripted import plays


async def test_a_retried_request_names_both_replicas(make: Make) -> None:
    broken, works = await make.engine(plays("close"), "broken"), await make.engine()
    proxy = await make.proxy(table(replica(broken, "m-1"), replica(works, "m-2")), retry_share=1.0)
    while not proxy.records("attempt_failed"):
        assert (await proxy.complete()).status_code == 200
    (failed,) = proxy.records("attempt_failed")
    assert (failed["replica"], failed["model"]) == ("m-1", "m")
    assert failed["kind"] in {"reset", "truncated"}
    (request,) = [r for r in proxy.records() if r["request_id"] == failed["request_id"]]
    assert (request["replica"], request["attempts"], request["outcome"]) == ("m-2", 2, "ok")


def test_loggers_may_say_what_a_line_concerns() -> None:
    log = ListLog()
    record = logging.LogRecord("x", logging.ERROR, "", 0, "it broke", (), None)
    record.request_id, record.replica = "req-1", "m-1"
    JsonHandler(log).emit(record)
    (line,) = [json.loads(line) for line in log.kept]
    told = {name: line[name] for name in ("request_id", "replica", "message")}
    assert told == {"request_id": "req-1", "replica": "m-1", "message": "it broke"}
    assert "model" not in line
