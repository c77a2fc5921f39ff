"""Metrics of engines of several versions, and of the shipped simulated one, are understood."""

import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.advise.exposition import Sample, Scrape, parse
from partitiond.advise.readings import EngineKey, Reading, readings_of
from partitiond.simulated.engine.batch import Batch
from partitiond.simulated.engine.exposition import render
from partitiond.simulated.engine.loop import EngineLoop
from partitiond.simulated.steps import constant_steps
from tests.advise.looks import captured

OLD = """\
vllm:num_requests_running{model_name="m"} 2
vllm:num_requests_waiting{model_name="m"} 1
vllm:num_requests_swapped{model_name="m"} 1
vllm:gpu_cache_usage_perc{model_name="m"} 0.25
vllm:request_success_total{finished_reason="stop",model_name="m"} 40
vllm:request_success_total{finished_reason="abort",model_name="m"} 2
vllm:prompt_tokens_total{model_name="m"} 4000
vllm:generation_tokens_total{model_name="m"} 2000
vllm:time_per_output_token_seconds_bucket{le="0.1",model_name="m"} 5
vllm:time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 6
vllm:time_per_output_token_seconds_count{model_name="m"} 6
vllm:time_per_output_token_seconds_sum{model_name="m"} 0.4
vllm:cache_config_info{block_size="16",num_gpu_blocks="101"} 1
"""


def read(text: str) -> dict[EngineKey, Reading]:
    return readings_of("a", Scrape(3.0, tuple(parse(text))))


def test_a_real_engine_tells_everything() -> None:
    (key, reading), *others = readings_of("a", captured()[-1]).items()

    assert not others
    assert key == EngineKey("a", "smollm2-135m", "0")
    assert (reading.ended, reading.aborted, reading.in_flight) == (70, 0, 1)
    assert (reading.prompt_tokens, reading.output_tokens) == (3150, 1226)
    assert (reading.prefix_asked, reading.prefix_found) == (3150, 256)
    assert reading.kv_usage == pytest.approx(0.00275, rel=0.01)
    assert reading.kv_tokens > 10_000
    assert set(reading.histograms) == {"prompt", "output", "ttft", "tpot"}
    prompt = reading.histograms["prompt"]
    assert (prompt.count, prompt.total) == (70, 3092)
    assert prompt.bounds[:3] == (1, 2, 5)
    assert math.isinf(prompt.bounds[-1])
    assert list(prompt.counts) == sorted(prompt.counts)


def test_an_old_engine_tells_the_same_under_other_names() -> None:
    (reading,) = read(OLD).values()

    assert (reading.ended, reading.aborted, reading.in_flight) == (42, 2, 4)
    assert reading.kv_usage == 0.25
    assert reading.kv_tokens == 1600
    assert reading.histograms["tpot"].count == 6
    assert "prompt" not in reading.histograms


def test_the_simulated_engine_speaks_as_a_real_one() -> None:
    batch = Batch(8, 2048, 4096)
    text = render(EngineLoop(batch, constant_steps(0.01)), "tiny", 4096)
    ((key, reading),) = read(text).items()

    assert key.model == "tiny"
    assert (reading.ended, reading.in_flight, reading.kv_usage) == (0, 0, 0)
    assert reading.kv_tokens == 4096


def test_engines_of_one_server_are_told_apart_and_share_its_refusals_once() -> None:
    found = read(
        'vllm:num_requests_running{engine="0",model_name="m"} 1\n'
        'vllm:num_requests_running{engine="1",model_name="m"} 2\n'
        'vllm:admission_rejections_total{model_name="m",reason="max_num_queued_reqs"} 5\n'
        'vllm:cache_config_info{engine="1",kv_cache_size_tokens="70"} 1\n'
    )
    assert [(key.engine, r.running, r.refused, r.kv_tokens) for key, r in found.items()] == [
        ("0", 1, 5, 0),
        ("1", 2, 0, 70),
    ]


def test_counters_without_their_ending_count_once_and_other_programs_not_at_all() -> None:
    both = 'vllm:request_success_total{model_name="m"} 3\nvllm:request_success{model_name="m"} 3\n'
    for text in (both, both.splitlines()[1]):
        assert [r.ended for r in read(text).values()] == [3]
    assert read("python_gc_total 3\n") == {}
    assert read('vllm:lora_requests_info{model_name="m"} 1\n') == {}


EXPOSED = """\
# HELP vllm:num_requests_running Number of requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a"} 2.0
vllm:e2e_bucket{le="+Inf",model_name="a, {b}"} 7 1700000000000
vllm:ttft_bucket{le="0.5"} 7 # {trace_id="x"} 0.4
vllm:nan{model_name="a"} NaN
vllm:broken nonsense
vllm:no_value{model_name="a"}
  \t
process_cpu_seconds_total 12
# EOF
"""


def test_samples_are_read_and_what_is_none_is_left_out() -> None:
    assert list(parse(EXPOSED)) == [
        Sample("vllm:num_requests_running", {"engine": "0", "model_name": "a"}, 2.0),
        Sample("vllm:e2e_bucket", {"le": "+Inf", "model_name": "a, {b}"}, 7.0),
        Sample("vllm:ttft_bucket", {"le": "0.5"}, 7.0),
        Sample("process_cpu_seconds_total", {}, 12.0),
    ]


def test_only_what_is_wanted_with_values_as_prometheus_writes_them() -> None:
    wanted = {"process_cpu_seconds_total", "vllm:e2e_bucket", "vllm:e2e"}
    assert [s.name for s in parse(EXPOSED, wanted)] == [
        "vllm:e2e_bucket",
        "process_cpu_seconds_total",
    ]
    values = [s.value for s in parse("a 1e3\na +Inf\na -Inf\na 0x10\na 1.5e-1\n")]
    assert values == [1000.0, math.inf, -math.inf, 0.15]


@given(st.dictionaries(st.text(string.ascii_letters, min_size=1), st.text(), max_size=3))
def test_labels_come_back_as_they_were(labels: dict[str, str]) -> None:
    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    if any(line_break in "".join(labels.values()) for line_break in "\r\v\f\x1c\x1d\x1e\x85  "):
        return  # no writer puts these into a line of its own
    inside = ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items())
    (sample,) = parse(f"m{{{inside}}} 1\n")
    assert sample.labels == labels


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    for sample in parse(text):
        assert not math.isnan(sample.value)
