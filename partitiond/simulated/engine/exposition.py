"""Renders the simulated engine's metrics under vLLM's names."""

from partitiond.simulated.engine.loop import EngineLoop

BLOCK_TOKENS = 16


def render(loop: EngineLoop, model: str, kv_cache_tokens: int) -> str:
    """Return the metrics as Prometheus text."""
    labels = f'engine="0",model_name="{model}"'
    totals, batch = loop.totals, loop.batch
    blocks = kv_cache_tokens // BLOCK_TOKENS + 1
    gauges = {
        "vllm:num_requests_running": float(batch.running),
        "vllm:num_requests_waiting": float(batch.waiting),
        "vllm:kv_cache_usage_perc": batch.kv_usage,
    }
    counters = {
        "vllm:num_preemptions_total": float(batch.preemptions),
        "vllm:prompt_tokens_total": float(totals.prompt_tokens),
        "vllm:generation_tokens_total": float(totals.generated_tokens),
        "vllm:prefix_cache_queries_total": 0.0,
        "vllm:prefix_cache_hits_total": 0.0,
    }
    histograms = {
        "vllm:time_to_first_token_seconds": (totals.ttft_seconds, totals.ttft_count),
        "vllm:inter_token_latency_seconds": (totals.itl_seconds, totals.itl_count),
        "vllm:e2e_request_latency_seconds": (totals.e2el_seconds, totals.finished),
        "vllm:request_queue_time_seconds": (totals.queue_seconds, totals.ttft_count),
    }
    lines = []
    for kind, values in (("gauge", gauges), ("counter", counters)):
        for name, value in values.items():
            lines += [f"# TYPE {name} {kind}", f"{name}{{{labels}}} {value}"]
    for name, (total, count) in histograms.items():
        lines += [
            f"# TYPE {name} histogram",
            f'{name}_bucket{{{labels},le="+Inf"}} {count}',
            f"{name}_count{{{labels}}} {count}",
            f"{name}_sum{{{labels}}} {total}",
        ]
    lines += ["# TYPE vllm:request_success_total counter"]
    for reason, count in (("length", totals.finished), ("abort", totals.aborted)):
        lines.append(f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {count}')
    lines += [
        "# TYPE vllm:cache_config_info gauge",
        f'vllm:cache_config_info{{engine="0",block_size="{BLOCK_TOKENS}",'
        f'kv_cache_size_tokens="{kv_cache_tokens}",num_gpu_blocks="{blocks}"}} 1.0',
    ]
    return "\n".join(lines) + "\n"
