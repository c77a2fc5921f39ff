"""Every shown metric of the control plane is in the catalog, with the labels that it says."""

import dataclasses

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from partitiond.core.demand.traffic import ModelCount, ReplicaCount, ReplicaTraffic, TrafficSample
from partitiond.core.drift.correction import Correction
from partitiond.core.events import Event
from partitiond.core.hardware.host_state import HostView
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.units import Bytes
from partitiond.core.views.drift import DriftReport, ReplicaDrift
from partitiond.core.views.overview import (
    DeviceOverview,
    ModelOverview,
    Overview,
    ReplicaOverview,
)
from partitiond.metrics.exposition import FAMILIES, Metrics
from partitiond.metrics.snapshot import MetricsSnapshot
from tests.controller.samples import NOW, cpu, plan
from tests.hosts.fleet import FINE, HEAD, LOST, NEVER
from tests.proxy.scraped import parse_samples

PLAN = plan()
PARTITION = CpuCores("cpu", Bytes(1), (0,))
MEASURED = ReplicaTraffic("m", 30.0, output_tokens_per_s=90.0, mean_batch=3.5)
REPLICA = ReplicaOverview(
    "m-1", "m-1", "m", "cpu", PARTITION, "serving", 100, 0.25, 8, 2, 100.0, 2.0, 0.5, 0.02,
    measured=MEASURED,
)  # fmt: skip
OVERVIEW = Overview(
    at=NOW,
    version="1.0",
    window_seconds=30.0,
    devices=(DeviceOverview(cpu(), 10, 5, 20, used_bytes=15, watts=None, cordoned="broken"),),
    models=(ModelOverview("m", "serving", 1, 2, 3.0, None, 2.0, None, ()),),
    replicas=(REPLICA, dataclasses.replace(REPLICA, replica_id="m-2", engine="m-2", measured=None)),
    jobs=(),
    plan_id="p",
    waiting_plan_id="q",
    problems=(("store", "is full"),),
    last_event=1,
)
DRIFT = DriftReport(
    (ReplicaDrift("m-1", "m-1", "m", "cpu", "slower", "by a third", 3),),
    (Correction("p1", "m", "cpu-x", 0.8, 1.25, 1.2, 1.3, 1, NOW),),
    (),
    30,
)
SAMPLE = TrafficSample(
    1.0, "e", {"m": ModelCount(arrived=9, turned_away=2)}, {"m-1": ReplicaCount("m", "1", ok=7)}
)
SHOWN = MetricsSnapshot(OVERVIEW, PLAN, SAMPLE, DRIFT)


def scraped_of(text: str) -> dict[str, Metric]:
    """What is scraped, by family, without times of making."""
    found = {one.name: one for one in text_string_to_metric_families(text)}
    return {name: one for name, one in found.items() if not name.endswith("_created")}


def test_planned_and_measured_stand_side_by_side() -> None:
    found = parse_samples(Metrics().text((), (), "", SHOWN))
    names = {name.replace('"', ""): value for name, value in found.items()}
    planned = "partitiond_replica_planned_output_tokens_per_second"
    measured = "partitiond_replica_measured_output_tokens_per_second"
    assert {n for n in names if n.startswith(f"{planned}{{")} == {
        f"{planned}{{device=cpu,model=m,replica={r}}}" for r in ("m-1", "m-2")
    }
    assert names[f"{measured}{{device=cpu,model=m,replica=m-1}}"] == 90.0
    assert f"{measured}{{device=cpu,model=m,replica=m-2}}" not in names
    assert names["partitiond_replica_drifts{device=cpu,model=m,replica=m-1}"] == 1.0
    assert names["partitiond_drift_correction_ratio{hardware=cpu-x,model=m}"] == 0.8
    assert names["partitiond_device_memory_used_bytes{device=cpu}"] == 15.0
    assert names["partitiond_device_memory_held_bytes{device=cpu}"] == 10.0
    assert names["partitiond_device_memory_coming_bytes{device=cpu}"] == 5.0
    assert names["partitiond_device_cordoned{device=cpu}"] == 1.0
    assert not any(name.startswith("partitiond_device_power_watts{") for name in names)
    assert names["partitiond_model_turned_away_total{model=m}"] == 2.0
    assert names["partitiond_engine_requests_ok_total{model=m,replica=m-1}"] == 7.0
    assert names["partitiond_problem{part=store}"] == 1.0
    assert names["partitiond_plan_waiting"] == 1.0
    assert names["partitiond_plan_gap_ratio"] == PLAN.certificate.gap


def test_what_is_scraped_is_in_the_catalog_with_its_labels() -> None:
    metrics = Metrics()
    metrics.happened(Event(1, NOW, "engine-failed", "m-1", "killed"))
    scraped = scraped_of(metrics.text((), (), "", SHOWN))
    catalog = {family.name: family for family in FAMILIES if not family.of_hosts}
    assert scraped.keys() == catalog.keys()
    for name, found in scraped.items():
        assert found.type == catalog[name].kind
        for sample in found.samples:
            assert sample.labels.keys() - {"le"} == set(catalog[name].labels), sample


def test_the_endpoints_own_text_follows_with_its_buckets() -> None:
    own = '# TYPE partitiond_proxy_x histogram\npartitiond_proxy_x_bucket{le="1"} 3.0'
    text = Metrics().text((), (), own)
    assert text.endswith('partitiond_proxy_x_bucket{le="1"} 3.0\n')
    assert Metrics().text((), (), "").endswith("\n")


def test_a_replica_that_is_replaced_on_its_device_is_told_once_under_each_name() -> None:
    """Prometheus drops one of two samples with the same labels, and warns with each scrape."""
    during = (
        dataclasses.replace(REPLICA, state="draining", memory_bytes=2),
        dataclasses.replace(
            REPLICA, engine="m-1.2", state="pending", measured=None, memory_bytes=3
        ),
    )
    shown = dataclasses.replace(SHOWN, overview=dataclasses.replace(OVERVIEW, replicas=during))
    text = Metrics().text((), (), "", shown)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    names = [line.rpartition(" ")[0] for line in lines]
    assert len(names) == len(set(names))
    memory = [line for line in lines if line.startswith("partitiond_replica_memory_bytes{")]
    assert memory == [
        'partitiond_replica_memory_bytes{device="cpu",model="m",replica="m-1"} 2.0',
        'partitiond_replica_memory_bytes{device="cpu",model="m",replica="m-1.2"} 3.0',
    ]


def test_what_alerts_count_is_there_before_it_happens() -> None:
    assert 'partitiond_events_total{kind="engine-failed"} 0.0' in Metrics().text((), (), "")


def over_hosts(*hosts: HostView) -> MetricsSnapshot:
    """The same fleet over several hosts; its device and replicas are on the head, named "h"."""
    replicas = tuple(dataclasses.replace(one, host="h") for one in OVERVIEW.replicas)
    return dataclasses.replace(
        SHOWN, overview=dataclasses.replace(OVERVIEW, replicas=replicas, hosts=hosts)
    )


def test_with_several_hosts_what_is_on_a_device_has_its_host() -> None:
    text = Metrics().text((), (), "", over_hosts(HEAD, FINE, LOST, NEVER))
    catalog = {f.name: f for f in FAMILIES}
    found = 0
    for name, metric in scraped_of(text).items():
        family = catalog[name]
        for sample in metric.samples:
            assert sample.labels.keys() - {"le"} == set(family.labels_of_hosts), sample
            found += "device" in family.labels
            assert "device" not in family.labels or sample.labels["host"] == "h"
    assert found > 10
    names = {name.replace('"', ""): value for name, value in parse_samples(text).items()}
    assert names["partitiond_host_state{host=gpu-2,state=lost}"] == 1.0
    assert names["partitiond_host_state{host=gpu-2,state=fine}"] == 0.0
    assert names["partitiond_host_silent_seconds{host=gpu-2}"] == 600.0
    assert names["partitiond_host_clock_offset_seconds{host=gpu-1}"] == -0.0123
    assert "partitiond_host_clock_offset_seconds{host=gpu-3}" not in names
    assert names["partitiond_host_gpus{host=gpu-1}"] == 8.0


def test_with_one_host_no_series_names_it() -> None:
    metrics = Metrics()
    text = metrics.text((), (), "", SHOWN)
    assert "host" not in text
    assert text == metrics.text((), (), "", over_hosts())


def test_a_replica_on_a_device_that_is_gone_keeps_the_host_it_ran_on() -> None:
    shown = over_hosts(HEAD, FINE)
    gone = dataclasses.replace(REPLICA, device_id="GPU-gone", host="gpu-1")
    shown = dataclasses.replace(
        shown, overview=dataclasses.replace(shown.overview, devices=(), replicas=(gone,))
    )
    line = 'partitiond_replica_memory_bytes{device="GPU-gone",host="gpu-1",model="m",replica="m-1"}'
    assert line in Metrics().text((), (), "", shown)


def test_a_name_that_two_hosts_have_is_told_once() -> None:
    twice = dataclasses.replace(NEVER, name=FINE.name)
    text = Metrics().text((), (), "", over_hosts(HEAD, FINE, twice))
    assert text.count(f'partitiond_host_state{{host="{FINE.name}",state="fine"}}') == 1
    assert f'partitiond_host_state{{host="{FINE.name}",state="fine"}} 1.0' in text
