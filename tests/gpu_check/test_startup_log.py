"""Memory terms are read from lines as vLLM writes them, in both wordings."""

import pytest

from bench.gpu_check.steps.startup_log import StartupMemory, parse
from partitiond.core.units import GIB

BEFORE_032 = """\
(EngineCore pid=79) INFO [gpu_model_runner.py:4801] Model loading took 0.24 GiB memory and 1.2 seconds
(EngineCore pid=79) INFO [gpu_worker.py:393] Available KV cache memory: 40.25 GiB
(EngineCore pid=79) INFO [kv_cache_utils.py:1307] GPU KV cache size: 1,172,368 tokens
(EngineCore pid=79) INFO [gpu_model_runner.py:6844] Graph capturing finished in 5 secs, took 0.26 GiB
(EngineCore pid=79) INFO [gpu_worker.py:857] Free memory on device (139.2/139.8 GiB) on startup. \
Desired GPU memory utilization is (0.3, 41.94 GiB). Actual usage is 0.25 GiB for weight, 0.5 GiB \
for peak activation, 0.16 GiB for non-torch memory, and 0.24 GiB for CUDAGraph memory. Replace \
gpu_memory_utilization config with `--kv-cache-memory=43000000000` (40.05 GiB) to fit into \
requested memory, or `--kv-cache-memory=147000000000` (136.9 GiB) to fully utilize gpu memory. \
Current kv cache memory in use is 40.25 GiB.
"""  # noqa: E501

SINCE_032 = """\
INFO [gpu_worker.py:760] Available KV cache memory: 12.5 GiB
INFO [gpu_worker.py:1034] Free memory on device (78.6/79.2 GiB) on startup. Desired GPU memory \
utilization is (0.3, 23.8 GiB). Actual usage is 0.75 GiB for consumed memory (weights + \
non-torch), 0.5 GiB for peak activation, and 0.25 GiB for CUDAGraph memory. Replace \
gpu_memory_utilization config with `--kv-cache-memory=13000000000` (12.1 GiB) to fit into \
requested memory, or `--kv-cache-memory=80000000000` (74.5 GiB) to fully utilize gpu memory. \
Current kv cache memory in use is 12.5 GiB.
"""


def test_memory_terms_are_read_in_both_wordings() -> None:
    said = parse(BEFORE_032)
    assert said.weights_bytes == GIB // 4
    assert said.non_torch_bytes == round(0.16 * GIB)
    assert said.activation_bytes == GIB // 2
    assert said.graph_bytes == round(0.24 * GIB), "what was captured, by the summary"
    assert said.kv_tokens == 1_172_368
    assert said.proposed_kv_bytes == 43_000_000_000
    assert said.explained_bytes == pytest.approx((0.25 + 0.16 + 0.5 + 0.24 + 40.25) * GIB, abs=9)
    said = parse(SINCE_032)
    assert said.fixed_bytes == 3 * GIB // 4
    assert said.weights_bytes is None
    assert said.explained_bytes == 14 * GIB
    assert said.proposed_kv_bytes == 13_000_000_000
    for text in ("", "INFO simulated engine", "Actual usage is a lot", "\0\n" * 99):
        assert parse(text) == StartupMemory()
    assert parse("").explained_bytes is None
