from partitiond.engines.vllm.metrics_text import kv_cache_tokens, label_sums, labels_of

TEXT = """\
# HELP vllm:num_requests_running Number of requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a"} 2.0
vllm:num_requests_running{engine="1",model_name="a"} 3.0
vllm:ttft_seconds_bucket{le="0.5"} 7
vllm:ttft_seconds_sum 1.5e-1
vllm:broken nonsense
process_cpu_seconds_total 12
"""


def test_values_are_summed_over_labels_and_buckets_left_out() -> None:
    assert label_sums(TEXT) == {
        "vllm:num_requests_running": 5.0,
        "vllm:ttft_seconds_sum": 0.15,
        "process_cpu_seconds_total": 12.0,
    }


def test_labels_may_hold_any_character() -> None:
    text = 'info{a="x, {y}",b="say \\"hi\\""} 1\n'
    assert labels_of(text, "info") == {"a": "x, {y}", "b": 'say \\"hi\\"'}
    assert labels_of(text, "inf") == {}


def test_kv_tokens_as_the_engine_says_or_from_its_blocks() -> None:
    new = 'vllm:cache_config_info{block_size="128",kv_cache_size_tokens="7168"} 1\n'
    old = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="101"} 1\n'
    assert kv_cache_tokens(new) == 7168
    assert kv_cache_tokens(old) == 1600
    assert kv_cache_tokens("") == 0
    assert kv_cache_tokens('vllm:cache_config_info{block_size="None"} 1\n') == 0
