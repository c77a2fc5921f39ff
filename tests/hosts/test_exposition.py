"""Metrics of several proxies make one text that a reader of the format accepts."""

from prometheus_client.parser import text_string_to_metric_families

from partitiond.hosts.exposition import together

ONE = """# HELP a_total Requests.
# TYPE a_total counter
a_total{model="m {x}"} 3.0
a_total{model="n"} 1.0
# TYPE b gauge
b 2.5
"""
TWO = """# HELP a_total Requests.
# TYPE a_total counter
a_total{model="n"} 4.0
# TYPE c gauge
c{} 1.0
"""


def test_each_sample_has_its_host_and_each_metric_stands_once() -> None:
    text = together({"one": ONE, 'tw"o': TWO})
    assert text.count("# TYPE a_total counter") == 1
    found = {
        (sample.name, sample.labels["host"], sample.labels.get("model", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found == {
        ("a_total", "one", "m {x}"): 3.0,
        ("a_total", "one", "n"): 1.0,
        ("a_total", 'tw"o', "n"): 4.0,
        ("b", "one", ""): 2.5,
        ("c", 'tw"o', ""): 1.0,
    }
    assert together({}) == ""
