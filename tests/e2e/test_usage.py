"""Usage is charged exactly, over a daemon that is killed, and an endpoint that ends."""

from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from partitiond.core.views.lists import ReplicaView
from partitiond.core.views.usage import UsageLine
from tests.e2e.harness import Fleet
from tests.machine import wait_for

pytestmark = pytest.mark.full

PROMPT_TOKENS_AT_LEAST = 1
OUTPUT_TOKENS = 8
BODY = {
    "name": "tiny",
    "weights": "dummy",
    "engine_kind": "simulated",
    "model": "opt-125m",
    "workload": {"prompt_tokens": 16, "output_tokens": 16},
    "min_replicas": 1,
    "max_replicas": 1,
    "auto": False,
    "engine": {"extra_args": ["--token-seconds", "0.01"]},
}
SETTINGS = {
    "daemon.loop_seconds": 0.1,
    "planner.time_limit_seconds": 2.0,
}


def serving(fleet: Fleet) -> ReplicaView | None:
    with fleet.client() as client:
        return next((view for view in client.replicas() if view.state == "serving"), None)


def ask(fleet: Fleet, key: str, times: int) -> None:
    client = fleet.openai(key)
    for _ in range(times):
        answer = client.completions.create(
            model="tiny", prompt="Once upon", max_tokens=OUTPUT_TOKENS,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        assert answer.usage is not None
        assert answer.usage.completion_tokens == OUTPUT_TOKENS


def booked(fleet: Fleet, key_id: str, requests: int) -> UsageLine:
    """The key's line, once it shows so many requests; more fail at once."""

    def found() -> UsageLine | None:
        with fleet.client() as client:
            lines = {line.key_id: line for line in client.usage(by=("key", "model")).lines}
        line = lines.get(key_id)
        assert line is None or line.requests <= requests, "booked twice"
        return line if line is not None and line.requests == requests else None

    return wait_for(f"{requests} requests in the books", found)


def test_every_request_is_booked_once(tmp_path: Path) -> None:
    with Fleet(tmp_path, SETTINGS | {"proxy.require_keys": True}) as fleet:
        fleet.start()
        with fleet.client() as client:
            client.register(BODY)
            client.apply()
            record, key = client.create_key(terms={"label": "batch"})
        wait_for("a replica", lambda: serving(fleet))
        ask(fleet, key, 5)
        fleet.kill_daemon()
        ask(fleet, key, 3)  # the endpoint goes on
        fleet.start()
        ask(fleet, key, 2)
        line = booked(fleet, record.id, 10)
        assert line.output_tokens == 10 * OUTPUT_TOKENS
        assert line.prompt_tokens >= 10 * PROMPT_TOKENS_AT_LEAST
        assert line.label == "batch"
        the_page_is_whole(fleet)
        ask(fleet, key, 1)
        assert fleet.terminate() == 0  # the endpoint ends with it, right after a request
        fleet.start()
        wait_for("a replica", lambda: serving(fleet))
        ask(fleet, key, 1)
        assert booked(fleet, record.id, 12).output_tokens == 12 * OUTPUT_TOKENS
        assert fleet.terminate() == 0


def the_page_is_whole(fleet: Fleet) -> None:
    """What a real daemon and a real endpoint tell: every metric is there, with its labels."""
    from partitiond.metrics import exposition as metrics
    from partitiond.proxy.telemetry import families

    token = fleet.settings.token_path.read_text().strip()
    answer = httpx.get(
        f"{fleet.settings.control_url}/metrics", headers={"authorization": f"Bearer {token}"}
    )
    scraped = {one.name: one for one in text_string_to_metric_families(answer.text)}
    catalog = {
        family.name: family
        for family in (*metrics.FAMILIES, *families.FAMILIES)
        if not getattr(family, "of_hosts", False)  # there is one host
    }
    assert {name for name in scraped if not name.endswith("_created")} == set(catalog)
    for name, family in catalog.items():
        for sample in scraped[name].samples:
            assert set(sample.labels) - {"le"} == set(family.labels), sample
    for name in (
        "partitiond_replica_planned_output_tokens_per_second",
        "partitiond_device_memory_used_bytes",
        "partitiond_engine_requests_ok",
        "partitiond_proxy_ttft_seconds",
        "partitiond_plan_gap_ratio",
        "vllm:num_requests_running",
    ):
        assert scraped[name].samples, f"{name} has no sample"
