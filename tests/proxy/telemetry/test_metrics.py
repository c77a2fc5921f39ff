"""GET /metrics of the endpoint has the names that dashboards use, and few label values."""

import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from partitiond.proxy.telemetry.families import FAMILIES, LIMIT, PEERS, REFUSALS, VLLM_KV
from partitiond.proxy.workers.merge_answers import counters_of, merge_samples
from tests.proxy.conftest import Make, Proxy, replica, table
from tests.proxy.scripted import DONE, event, plays, stream, text_event

LABELS = re.compile(r'(\w+)="')


def labelled(full: str) -> set[str]:
    return set(LABELS.findall(full)) - {"le"}


async def test_everything_that_is_scraped_is_in_the_catalog_and_dashboards_find_their_names(
    make: Make,
) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    last = event({"id": "c", "object": "text_completion", "choices": [], "usage": usage})
    script = plays(*stream(text_event("a"), 0.03, text_event("bcd"), last, DONE))
    proxy, _ = await make.both(script, at={"kv_cache_tokens": 100})
    await proxy.stream_text()
    scraped = text_string_to_metric_families(proxy.state.metrics.text().decode())
    assert {one.name: one.type for one in scraped} == {one.name: one.kind for one in FAMILIES}
    samples = proxy.state.metrics.samples()
    assert samples.keys() == {family.name for family in FAMILIES}
    for family in FAMILIES:
        for full in samples[family.name]:
            assert labelled(full) == set(family.labels), full
    model = {"model_name": "m"}
    at_engine = {**model, "engine": "m-1"}
    for name, labels, value in (
        ("vllm:prompt_tokens_total", model, 7),
        ("vllm:generation_tokens_total", model, 4),
        ("vllm:request_success_total", model, 1),
        ("vllm:num_requests_waiting", model, 0),
        ("vllm:num_requests_running", at_engine, 0),
        ("vllm:kv_cache_usage_perc", at_engine, 0),
        ("vllm:time_to_first_token_seconds_count", model, 1),
        ("vllm:request_time_per_output_token_seconds_count", model, 1),
        ("vllm:request_time_per_output_token_seconds_sum", model, pytest.approx(0.03 / 3)),
        ("vllm:e2e_request_latency_seconds_count", model, 1),
        ("vllm:request_queue_time_seconds_count", model, 1),
        ("vllm:request_prompt_tokens_count", model, 1),
        ("vllm:request_generation_tokens_count", model, 1),
    ):
        pairs = ",".join(f'{label}="{of}"' for label, of in sorted(labels.items()))
        assert samples_of(proxy)[f"{name}{{{pairs}}}"] == value, name


def samples_of(proxy: Proxy) -> dict[str, float]:
    return {k: v for samples in proxy.state.metrics.samples().values() for k, v in samples.items()}


async def test_nothing_a_client_sends_becomes_a_label(make: Make) -> None:
    proxy, _ = await make.both(route={"aliases": ("other", "third")})

    async def send(n: int) -> None:
        for body in (
            {},
            {"user": f"u{n}"},
            {"model": "other"},
            {"model": f"nobody-{n}"},
            {"n": "x"},
        ):
            await proxy.complete(**body)
        async with proxy.client as client:
            await client.get(f"/no/such/path/{n}")

    await send(0)
    before = set(samples_of(proxy))
    for n in range(1, 12):
        await send(n)
        body: dict[str, Any] = {"model": "third", f"field{n}": n}
        await proxy.complete(key=f"sk-{n}", headers={"x-request-id": f"id-{n}"}, **body)
    assert set(samples_of(proxy)) == before


async def test_odd_names_are_written_as_prometheus_reads_them(make: Make) -> None:
    name = 'a "b"\\c'
    engine = await make.engine()
    proxy = await make.proxy(table(replica(engine, model=name), models=(name,), served_name="m"))
    await proxy.complete(model=name)
    text = proxy.state.metrics.text().decode()
    (family,) = [
        family
        for family in text_string_to_metric_families(text)
        if family.name == "partitiond_proxy_requests"
    ]
    counted = {s.labels["outcome"]: s.value for s in family.samples if s.labels["model"] == name}
    assert counted["ok"] == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_add_up_and_shares_do_too(workers: int) -> None:
    each = {
        VLLM_KV.name: {"used": 0.25},
        LIMIT.name: {"limit": 8.0},
        PEERS.name: {"reached": 1.0},
        REFUSALS.name: {"refused": 2.0},
    }
    unreached = {PEERS.name: {"reached": 0.0}}
    assert merge_samples([*[each] * workers, unreached]) == {
        VLLM_KV.name: {"used": 0.25 * workers},
        LIMIT.name: {"limit": 8.0},
        PEERS.name: {"reached": 0.0},
        REFUSALS.name: {"refused": 2.0 * workers},
    }
    assert counters_of(each) == {REFUSALS.name: {"refused": 2.0}}
