"""GET /metrics of the endpoint has the names that dashboards use, and few label values."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from partitiond.metrics.family import Family
from partitiond.proxy.telemetry.families import FAMILIES
from partitiond.proxy.workers.merge_answers import Samples, merge_metrics
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.scripted import Received, Step, event, stream, text_event

LABELS = re.compile(r'(\w+)="')


def samples_of(proxy: Proxy) -> dict[str, float]:
    found: dict[str, float] = {}
    for samples in Samples(proxy.state.metrics.text().decode()).families.values():
        found.update(samples)
    return found


def series(name: str, **labels: str) -> str:
    """As it stands in the text: labels in the order of the alphabet."""
    pairs = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{pairs}}}"


def labelled(full: str) -> set[str]:
    return set(LABELS.findall(full)) - {"le"}


def stream_of_four(_: Received) -> list[Step]:
    usage = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    last = event({"id": "c", "object": "text_completion", "choices": [], "usage": usage})
    return stream(text_event("a"), 0.03, text_event("bcd"), last, b"data: [DONE]\n\n")


async def test_everything_that_is_scraped_is_in_the_catalog(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(stream_of_four)
    proxy = await make_proxy(table(replica(engine)))
    await proxy.stream_text()
    text = Samples(proxy.state.metrics.text().decode())
    catalog: dict[str, Family] = {
        f"{family.name}_total" if family.kind == "counter" else family.name: family
        for family in FAMILIES
    }
    assert set(text.kinds) == set(catalog)
    for name, samples in text.families.items():
        assert text.kinds[name] == catalog[name].kind
        for full in samples:
            assert labelled(full) == set(catalog[name].labels), full


async def test_dashboards_for_vllm_and_opentelemetry_find_their_names(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(stream_of_four)
    proxy = await make_proxy(table(replica(engine, kv_cache_tokens=100)))
    await proxy.stream_text()
    found = samples_of(proxy)
    model = {"model_name": "m"}
    otel = {"gen_ai_request_model": "m", "gen_ai_provider_name": "partitiond"}
    assert found[series("vllm:prompt_tokens_total", **model)] == 7
    assert found[series("vllm:generation_tokens_total", **model)] == 4
    assert found[series("vllm:request_success_total", **model)] == 1
    assert found[series("vllm:num_requests_waiting", **model)] == 0
    assert found[series("vllm:num_requests_running", **model, engine="m-1")] == 0
    assert found[series("vllm:kv_cache_usage_perc", **model, engine="m-1")] == 0
    for name in (
        "time_to_first_token_seconds", "request_time_per_output_token_seconds",
        "e2e_request_latency_seconds", "request_queue_time_seconds", "request_prompt_tokens",
        "request_generation_tokens",
    ):  # fmt: skip
        assert found[series(f"vllm:{name}_count", **model)] == 1
    tpot = found[series("vllm:request_time_per_output_token_seconds_sum", **model)]
    assert tpot == pytest.approx(0.03 / 3)
    assert found[series("gen_ai_server_request_duration_seconds_count", **otel)] == 1
    assert found[series("gen_ai_server_time_to_first_token_seconds_count", **otel)] == 1
    usage = {**otel, "gen_ai_token_type": "output"}
    assert found[series("gen_ai_client_token_usage_sum", **usage)] == 4


async def test_nothing_a_client_sends_becomes_a_label(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine), aliases=("other", "third")))
    for body in ({}, {"user": "u0"}, {"model": "other"}, {"model": "nobody-0"}, {"n": "x"}):
        await proxy.complete(**body)
    async with proxy.client as client:
        await client.get("/no/such/path/0")
    before = set(samples_of(proxy))
    for n in range(12):
        await proxy.complete(model=f"nobody-{n}", user=f"u{n}")
        await proxy.complete(user=f"u{n}")
        async with proxy.client as client:
            await client.get(f"/no/such/path/{n}")
            await client.post(
                "/v1/completions", json={"model": "third", "prompt": "x", f"field{n}": n},
                headers={"authorization": f"Bearer sk-{n}", "x-request-id": f"id-{n}"},
            )  # fmt: skip
    assert set(samples_of(proxy)) == before


async def test_odd_names_are_written_as_prometheus_reads_them(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    name = 'a "b"\\c'
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine, model=name), models=(name,), served_name="m"))
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
    text = (
        "# HELP vllm:kv_cache_usage_perc x\n# TYPE vllm:kv_cache_usage_perc gauge\n"
        'vllm:kv_cache_usage_perc{model_name="m",engine="m-1"} 0.25\n'
        "# HELP partitiond_proxy_limit_sequences x\n"
        "# TYPE partitiond_proxy_limit_sequences gauge\n"
        'partitiond_proxy_limit_sequences{model="m",replica="m-1"} 8.0\n'
    )
    merged = Samples(merge_metrics([text] * workers, Samples()))
    (used,) = merged.families["vllm:kv_cache_usage_perc"].values()
    (limit,) = merged.families["partitiond_proxy_limit_sequences"].values()
    assert used == 0.25 * workers
    assert limit == 8.0
