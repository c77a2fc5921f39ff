"""Metrics of a real engine, and of the shipped simulated one, are understood."""

import contextlib
import math

from hypothesis import given
from hypothesis import strategies as st

from partitiond.advise.metrics import EngineKey, Reading, readings_of
from partitiond.simulated.engine.batch import Batch
from partitiond.simulated.engine.exposition import render
from partitiond.simulated.engine.loop import EngineLoop
from partitiond.simulated.steps import constant_steps
from tests.advise.looks import captured


def read(text: str) -> dict[EngineKey, Reading]:
    return readings_of("a", text)


def test_a_real_engine_tells_everything() -> None:
    ((key, reading),) = captured()[-1].items()
    assert key == EngineKey("a", "smollm2-135m", "0")
    assert (reading.ended, reading.in_flight) == (70, 1)
    assert set(reading.histograms) == {"prompt", "output", "ttft", "tpot"}
    prompt = reading.histograms["prompt"]
    assert (prompt.count, prompt.total) == (70, 3092)
    assert prompt.bounds[:3] == (1, 2, 5)
    assert math.isinf(prompt.bounds[-1])
    assert list(prompt.counts) == sorted(prompt.counts)


def test_the_simulated_engine_speaks_as_a_real_one() -> None:
    batch = Batch(8, 2048, 4096)
    text = render(EngineLoop(batch, constant_steps(0.01)), "tiny", 4096)
    ((key, reading),) = read(text).items()
    assert key.model == "tiny"
    assert (reading.ended, reading.in_flight) == (0, 0)


def test_engines_of_one_server_are_told_apart_and_share_its_refusals_once() -> None:
    found = read(
        'vllm:num_requests_running{engine="0",model_name="m"} 1\n'
        'vllm:num_requests_running{engine="1",model_name="m"} 2\n'
        'vllm:num_requests_waiting{engine="1",model_name="m"} NaN\n'
        'vllm:admission_rejections_total{model_name="m",reason="max_num_queued_reqs"} 5\n'
    )
    assert [(key.engine, r.in_flight, r.refused) for key, r in found.items()] == [
        ("0", 1, 5),
        ("1", 2, 0),
    ]


def test_other_programs_and_adapters_are_no_engines() -> None:
    for text in (
        "python_gc_total 3\n",
        'vllm:lora_requests_info{model_name="m"} 1\n',
        'vllm:prompt_tokens_total{model_name="m"} 1\n',
        "vllm:num_requests_running 1\n",
    ):
        assert read(text) == {}


SYNTAX = st.text('{}"\\=,# \t0a:_+.')


@given(SYNTAX, SYNTAX | st.text())
def test_no_text_breaks_it(labels: str, value: str) -> None:
    for text in (labels, f"m{labels} {value}", f"m{{{labels}}} {value}"):
        with contextlib.suppress(ValueError):
            assert read(text) == {}
