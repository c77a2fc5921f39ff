"""Defines every metric of the endpoint, under our own names and those of dashboards for vLLM."""

from typing import Final

from partitiond.metrics.family import Family

_MODEL: Final = ("model",)
_REPLICA: Final = ("model", "replica")
_VLLM: Final = ("model_name",)
_VLLM_ENGINE: Final = ("model_name", "engine")

REQUESTS: Final = Family(
    "partitiond_proxy_requests", "counter", ("model", "outcome"),
    "Requests by model and how they ended.",
    "outcomes: ok, failed, refused, invalid, client_gone",
)  # fmt: skip
REFUSALS: Final = Family(
    "partitiond_proxy_refusals", "counter", ("reason",),
    "Requests the proxy refused itself, by reason (the error's code).",
)  # fmt: skip
UPSTREAM_FAILURES: Final = Family(
    "partitiond_proxy_upstream_failures", "counter", ("replica", "kind"),
    "Failed attempts by replica and kind.",
)  # fmt: skip

HOPS: Final = Family(
    "partitiond_proxy_hops", "counter", ("peer", "outcome"),
    "Requests sent to another host's proxy, by what became of them there.",
    "outcomes: placed, refused, failed, withdrawn",
)  # fmt: skip

COUNTERS: Final = {
    Family(
        "partitiond_proxy_prompt_tokens", "counter", _MODEL, "Prompt tokens by usage."
    ): "prompt_tokens",
    Family(
        "partitiond_proxy_output_tokens", "counter", _MODEL,
        "Output tokens by usage, or by events of a stream that told none.",
    ): "output_tokens",
    Family(
        "partitiond_proxy_untold", "counter", _MODEL,
        "Requests that ended ok without usage told by their engine: charged by estimate.",
    ): "untold",
    Family("vllm:prompt_tokens", "counter", _VLLM, "Prompt tokens by usage."): "prompt_tokens",
    Family("vllm:generation_tokens", "counter", _VLLM, "Output tokens."): "output_tokens",
}  # fmt: skip
"""Family -> field of `counters.ModelMetrics`."""

SUCCESSES: Final = Family(
    "vllm:request_success", "counter", _VLLM, "Requests that ended ok.",
    "vLLM also tells the reason by a label",
)  # fmt: skip

_TTFT: Final = (
    "From the last byte of the request to the first content (streams), queueing included."
)
_E2E: Final = "From the last byte of the request to the end of its answer, where that is ok."
_QUEUE: Final = "Time until a replica was found."
_TPOT: Final = "Time per output token after the first, a mean for each stream."
_PROMPT: Final = "Prompt tokens of a request that ended ok."
_OUTPUT: Final = "Output tokens of a request that ended ok."
_SECONDS: Final = (
    ("ttft_seconds", _TTFT, "vllm:time_to_first_token_seconds"),
    ("tpot_seconds", _TPOT, "vllm:request_time_per_output_token_seconds"),
    ("e2e_seconds", _E2E, "vllm:e2e_request_latency_seconds"),
    ("queue_seconds", _QUEUE, "vllm:request_queue_time_seconds"),
    ("request_prompt_tokens", _PROMPT, "vllm:request_prompt_tokens"),
    ("request_output_tokens", _OUTPUT, "vllm:request_generation_tokens"),
)
"""(field of `counters.ModelMetrics`, help text, vLLM's name)."""

HISTOGRAMS: Final = {
    **{
        Family(f"partitiond_proxy_{field}", "histogram", _MODEL, text): field
        for field, text, _ in _SECONDS
    },
    **{Family(vllm, "histogram", _VLLM, text): field for field, text, vllm in _SECONDS},
}

SEQUENCES: Final = Family(
    "partitiond_proxy_in_flight_sequences", "gauge", _REPLICA, "Sequences in flight."
)
LIMIT: Final = Family(
    "partitiond_proxy_limit_sequences", "gauge", _REPLICA,
    "Sequences a replica may have in flight.",
)  # fmt: skip
EJECTED: Final = Family(
    "partitiond_proxy_ejected", "gauge", _REPLICA,
    "1 while a replica gets requests last or not at all because it failed.",
)  # fmt: skip
QUEUE: Final = Family("partitiond_proxy_queue", "gauge", _MODEL, "Requests waiting for a slot.")
PEERS: Final = Family(
    "partitiond_proxy_peer_reached", "gauge", ("peer",),
    "1 while another host's proxy is reached, which serves what runs there.",
)  # fmt: skip
VLLM_RUNNING: Final = Family(
    "vllm:num_requests_running", "gauge", _VLLM_ENGINE, "Sequences in flight.",
    "`engine` is the replica",
)  # fmt: skip
VLLM_WAITING: Final = Family(
    "vllm:num_requests_waiting", "gauge", _VLLM, "Requests waiting for a slot.",
    "in the endpoint's queue: engines get no more than they can run",
)  # fmt: skip
VLLM_KV: Final = Family(
    "vllm:kv_cache_usage_perc", "gauge", _VLLM_ENGINE,
    "Estimated share of the KV cache in use, 0..1.", "`engine` is the replica",
)  # fmt: skip

FAMILIES: Final = (
    REQUESTS, REFUSALS, UPSTREAM_FAILURES, HOPS,
    *COUNTERS, SUCCESSES, *HISTOGRAMS,
    SEQUENCES, LIMIT, EJECTED, QUEUE, PEERS, VLLM_RUNNING, VLLM_WAITING, VLLM_KV,
)  # fmt: skip
"""All families."""
