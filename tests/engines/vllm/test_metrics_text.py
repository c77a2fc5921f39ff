from partitiond.engines.vllm.metrics_text import kv_cache_tokens, label_sums

TEXT = """\
# HELP vllm:num_requests_running Number of requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a } 7"} 2.0
vllm:num_requests_running{engine="1",model_name="a"} 3.0 1700000000
vllm:ttft_seconds_bucket{le="0.5"} 7
vllm:ttft_seconds_sum 1.5e-1
vllm:broken nonsense
vllm:broken{a="b"}

process_cpu_seconds_total 12
"""


def test_values_are_summed_over_labels_and_buckets_left_out() -> None:
    assert label_sums(TEXT) == {
        "vllm:num_requests_running": 5.0,
        "vllm:ttft_seconds_sum": 0.15,
        "process_cpu_seconds_total": 12.0,
    }


def test_kv_tokens_as_the_engine_says_or_from_its_blocks() -> None:
    def tokens(labels: str) -> int:
        other = 'vllm:cache_config_info_too{kv_cache_size_tokens="3"} 1\n'
        return kv_cache_tokens(f"{other}vllm:cache_config_info{{{labels}}} 1\n")

    assert tokens('block_size="128",kv_cache_size_tokens="7168"') == 7168
    assert tokens('x="}, {\\",kv_cache_size_tokens=\\"1\\"",kv_cache_size_tokens="7168.0"') == 7168
    assert tokens('my_kv_cache_size_tokens="5",block_size="16",num_gpu_blocks="101"') == 1600
    assert tokens('block_size="None"') == tokens("") == kv_cache_tokens("") == 0
    assert tokens(f'kv_cache_size_tokens="{"9" * 400}"') == 0
