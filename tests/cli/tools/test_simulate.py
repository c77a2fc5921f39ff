"""`partitiond tools simulate` makes simulated hosts and changes their state."""

import json
from pathlib import Path
from typing import Any

import pytest

from partitiond.models.catalog import CATALOG
from partitiond.simulated.gpus import SimulatedHost, shipped_descriptions
from tests.cli.conftest import Cli

SIMULATE = "tools simulate"


@pytest.fixture
def folder(cli: Cli, tmp_path: Path) -> Path:
    cli(f"{SIMULATE} create a100-80gb-mig --out", tmp_path / "host").ended(0)
    return tmp_path / "host"


def gpus(cli: Cli, folder: Path) -> Any:
    return cli(f"{SIMULATE} break --json", folder).json


def test_shipped_hosts_are_listed_made_and_shown(cli: Cli, tmp_path: Path) -> None:
    listed = cli(f"{SIMULATE} create --json").json
    assert {host["name"] for host in listed} == shipped_descriptions().keys()
    cli(f"{SIMULATE} create").ended(0, "h100-80gb-x4")
    cli(f"{SIMULATE} create mixed").refused(2, "--out DIR")
    made = cli(f"{SIMULATE} create a100-80gb-mig --out", tmp_path / "new")
    assert f"PARTITIOND_GPU__SIMULATED_HOST={tmp_path / 'new'}" in made.out.replace("\n", "")
    first, second = gpus(cli, tmp_path / "new")
    assert (first["mig"], second["mig_instances"]) == (True, [])
    cli(f"{SIMULATE} break", tmp_path / "new").ended(0, "3g.40gb@4")
    (tmp_path / "file").write_text("here")
    cli(f"{SIMULATE} create --out", tmp_path / "none").refused(2, "name the host to make there")
    below = tmp_path / "file" / "host"
    cli(f"{SIMULATE} create mixed --out", below).refused(10, "Not a directory")


def test_things_happen_to_it(cli: Cli, folder: Path) -> None:
    host = SimulatedHost.open(folder)
    happens = (f"{SIMULATE} break", folder)
    for words in (
        *("process 4194304 10GiB --gpu 1", f"lose --gpu {host.uuids()[0]}"),
        *("health ecc=3 temperature_c=80 --gpu 1", "load power_watts=300.5", "privileged off"),
        *("fail mig 19 --times -1", "heal", "xid 31"),
    ):
        cli(*happens, *words.split()).ended(0)
    first, second = gpus(cli, folder)
    assert (first["lost"], second["used_bytes"]) == (True, 10 << 30)
    assert host.figure(host.uuids()[1], "ecc_uncorrected_volatile") == 3
    assert host.figure(host.uuids()[0], "power_watts") == 300.5
    # The beginning of a UUID names a GPU, and a process can go.
    cli(*happens, "process", "4194304", "0", "--gpu", host.uuids()[1][:12])
    assert gpus(cli, folder)[1]["used_bytes"] == 0
    cli(*happens, "reboot").ended(0)
    assert [gpu["used_bytes"] for gpu in gpus(cli, folder)] == [0, 0]
    cli(*happens, "process", "4194304", "1GiB")
    cli(*happens, "mig", "off").refused(2, "while processes use it")
    assert gpus(cli, folder)[0]["mig"]


@pytest.mark.parametrize(
    "words",
    [
        *("explode", "xid", "xid many", "process 1 lots", "privileged maybe", "health"),
        *("health mood=1", "health ecc", "health ecc=-1", "lose --gpu 9", "lose --gpu GPU-none"),
        *("lose --gpu GPU-", "lose --gpu=", "xid 0", "xid 99999999999999999999"),
        *("process 99999999999999 1GiB", "process 4711 9999TiB", "fail nvmlNoSuchCall 3"),
        *("fail mig 99999999999999", f"fail {'x' * 300} 3", f"fail nvml*{'x' * 300} 3"),
        *("mps explode", "mps fault"),  # none runs
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(cli: Cli, folder: Path, words: str) -> None:
    before = gpus(cli, folder)
    cli(f"{SIMULATE} break", folder, *words.split()).refused(2, "what to do: ")
    assert gpus(cli, folder) == before


FLEET = """
[[devices]]
hardware = "a100-80gb"
count = 2

[[models]]
model = "opt-125m"
demand = { req_per_s = 5 }
slo = { ttft_seconds = 0.5, tpot_seconds = 0.03 }
workload = { prompt_tokens = 64, output_tokens = 32 }
"""
TRACE = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET, encoding="utf-8")
    return path


def test_traffic_is_reported_by_model_and_a_trace_replayed_to_its_end(
    cli: Cli, fleet: Path, tmp_path: Path
) -> None:
    simulated = (f"{SIMULATE} fleet", fleet)
    report = cli(*simulated, "--seconds", 60, "--time-limit", 1, "--json").ended(0).json
    (one,) = report["models"]
    assert one["model"] == "opt-125m"
    assert 200 < one["served"]["arrivals"] < 400
    assert one["served"]["good"] == one["served"]["arrivals"]
    assert report["devices_used"] == 1
    assert one["used"]["gpu_hours"] == pytest.approx(1 / 60)
    assert report["events"] > one["served"]["arrivals"]
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{n},ChatGPT,{20 + n},{10 + n},0,API log\n" for n in range(50))
    trace.write_text(TRACE + rows, encoding="utf-8")
    replayed = cli(*simulated, "--trace", trace, "--time-limit", 1, "--json").ended(0)
    served = replayed.json["all"]["served"]
    assert served["answered"] == 50
    assert served["output_tokens"] == sum(10 + n for n in range(50))
    path = tmp_path / "plan.json"
    path.write_text(cli("plan --from", fleet, "--time-limit", 1, "--json").out, encoding="utf-8")
    cli(*simulated, "--plan", path, "--seconds", 20).ended(0, "opt-125m", "events/s")
    pools = tmp_path / "pools"
    pools.mkdir()
    (pools / "config.json").write_text(json.dumps(dict(CATALOG["bge-small-en-v1.5"].config)))
    (tmp_path / "pools.toml").write_text(
        f'[[devices]]\nhardware = "l4-24gb"\n[[models]]\nmodel = "{pools}"\n'
        "demand = { req_per_s = 5 }\n"
    )
    asked = (tmp_path / "pools.toml", "--seconds", 20, "--time-limit", 1, "--json")
    served = cli(f"{SIMULATE} fleet", *asked).ended(0).json["all"]["served"]
    assert served["output_tokens"] == served["answered"] > 0, "it answers in one step"
    for words, said in (
        (("--workload", "rain"), "poisson"),
        (("--trace", fleet), "recorded requests"),
        (("--plan", fleet), "plan"),
    ):
        cli(*simulated, *words).refused(2, said)
