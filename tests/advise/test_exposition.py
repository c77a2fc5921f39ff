import math
import string

from hypothesis import given
from hypothesis import strategies as st

from partitiond.advise.exposition import Sample, parse

TEXT = """\
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
    assert list(parse(TEXT)) == [
        Sample("vllm:num_requests_running", {"engine": "0", "model_name": "a"}, 2.0),
        Sample("vllm:e2e_bucket", {"le": "+Inf", "model_name": "a, {b}"}, 7.0),
        Sample("vllm:ttft_bucket", {"le": "0.5"}, 7.0),
        Sample("process_cpu_seconds_total", {}, 12.0),
    ]


def test_only_the_metrics_that_are_wanted() -> None:
    wanted = {"process_cpu_seconds_total", "vllm:e2e_bucket", "vllm:e2e"}
    assert [s.name for s in parse(TEXT, wanted)] == ["vllm:e2e_bucket", "process_cpu_seconds_total"]


def test_values_as_prometheus_writes_them() -> None:
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
