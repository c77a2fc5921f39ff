"""The proxy's benchmark turns figures into verdicts."""

from bench.proxy import measure, report
from bench.proxy.measure import Results


def results(**values: list[float]) -> Results:
    found = Results()
    for proxy, figures in values.items():
        found.values[proxy] = {measure.CPU_REQUEST: figures}
    return found


def judged(found: Results) -> str:
    return next(iter(report.goal_lines(found)))


def test_a_goal_is_judged_by_the_median_of_ratios_within_rounds() -> None:
    found = results(ours=[17, 30, 16], nginx=[10, 15, 10])  # 1.7, 2.0, 1.6
    (line,) = report.goal_lines(found)
    assert line.startswith("met")
    assert "1.7" in line
    found.values["ours"][measure.CPU_REQUEST][0] = 19
    assert judged(found).startswith("MISSED")
    assert judged(results(ours=[10], httpx=[600])).startswith("met"), "from below"
    assert judged(results(ours=[10], httpx=[400])).startswith("MISSED")
    lost = Results()
    lost.values["ours"] = {measure.LOST: [0, 0, 1]}
    assert judged(lost).startswith("MISSED"), "one lost chunk in any round"


def test_added_latency_is_over_the_direct_connection_of_the_same_round() -> None:
    """A hop is compared with one proxy, and nginx is left out if it is missing."""
    found = Results()
    found.values = {
        measure.DIRECT: {measure.ONE_P50: [10.0, 20.0]},
        "ours": {measure.ONE_P50: [70.0, 90.0]},
    }
    found.add_differences()
    assert found.values["ours"][measure.ADDED_P50] == [60.0, 70.0]
    found.values = {
        "ours": {measure.ADDED_P50: [100.0, 120.0, 100.0]},
        "hop": {measure.ADDED_P50: [210.0, 240.0, 250.0]},  # 2.1, 2.0, 2.5
        "nginx-hop": {measure.ADDED_P50: [140.0, 140.0, 140.0]},
    }
    header, line = report.hop_lines(found)
    assert "nginx" not in header
    assert "2.10 (2.00..2.50)" in line
    goals = [line for line in report.goal_lines(found) if "of hop, ours = 1" in line]
    assert [line.startswith("met") for line in goals] == [True]
