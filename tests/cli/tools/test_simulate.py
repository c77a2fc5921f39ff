"""`partitiond tools simulate` makes simulated hosts and changes their state."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from partitiond.cli.main import app
from partitiond.core.errors import DeviceError, InputError
from partitiond.simulated.gpus import SimulatedHost, shipped_descriptions


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["tools", "simulate", *words], catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert run("create", "a100-80gb-mig", "--out", str(tmp_path / "host")).exit_code == 0
    return tmp_path / "host"


def gpus(folder: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run("show", str(folder), "--json").stdout)
    return found


def test_shipped_hosts_are_listed_made_and_shown(tmp_path: Path) -> None:
    listed = json.loads(run("list", "--json").stdout)
    assert {host["name"] for host in listed} == shipped_descriptions().keys()
    assert "h100-80gb-x4" in run("list").stdout
    made = run("create", "a100-80gb-mig", "--out", str(tmp_path / "new"))
    assert f"PARTITIOND_GPU__SIMULATED_HOST={tmp_path / 'new'}" in made.stdout
    first, second = gpus(tmp_path / "new")
    assert (first["mig"], second["mig_instances"]) == (True, [])
    assert "3g.40gb@4" in run("show", str(tmp_path / "new")).stdout
    (tmp_path / "file").write_text("here")
    with pytest.raises(DeviceError, match="Not a directory"):
        run("create", "mixed", "--out", str(tmp_path / "file" / "host"))


def test_things_happen_to_it(folder: Path) -> None:
    host = SimulatedHost.open(folder)
    for words in (
        *("process 4194304 10GiB --gpu 1", f"lose --gpu {host.uuids()[0]}"),
        *("health ecc=3 temperature_c=80 --gpu 1", "load power_watts=300.5", "privileged off"),
        *("fail mig 19 --times -1", "heal", "xid 31"),
    ):
        assert run("break", str(folder), *words.split()).exit_code == 0
    first, second = gpus(folder)
    assert (first["lost"], second["used_bytes"]) == (True, 10 << 30)
    assert host.figure(host.uuids()[1], "ecc_uncorrected_volatile") == 3
    assert host.figure(host.uuids()[0], "power_watts") == 300.5
    # The beginning of a UUID names a GPU, and a process can go.
    run("break", str(folder), "process", "4194304", "0", "--gpu", host.uuids()[1][:12])
    assert gpus(folder)[1]["used_bytes"] == 0
    assert run("break", str(folder), "reboot").exit_code == 0
    assert [gpu["used_bytes"] for gpu in gpus(folder)] == [0, 0]
    run("break", str(folder), "process", "4194304", "1GiB")
    with pytest.raises(InputError, match="while processes use it"):
        run("break", str(folder), "mig", "off")
    assert gpus(folder)[0]["mig"]


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
def test_what_cannot_be_is_refused_with_what_to_do(folder: Path, words: str) -> None:
    before = gpus(folder)
    with pytest.raises(InputError) as refused:
        run("break", str(folder), *words.split())
    assert refused.value.hint
    assert gpus(folder) == before


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


def simulate(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(
        app, ["tools", "simulate", "fleet", *arguments], catch_exceptions=False
    )
    return done.exit_code, done.output


def test_traffic_is_reported_by_model_and_a_trace_replayed_to_its_end(
    fleet: Path, tmp_path: Path
) -> None:
    code, text = simulate(str(fleet), "--seconds", "60", "--time-limit", "1", "--json")
    assert code == 0
    report = json.loads(text)
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
    code, text = simulate(str(fleet), "--trace", str(trace), "--time-limit", "1", "--json")
    assert code == 0
    served = json.loads(text)["all"]["served"]
    assert served["answered"] == 50
    assert served["output_tokens"] == sum(10 + n for n in range(50))
    planned = CliRunner().invoke(
        app, ["plan", "--from", str(fleet), "--time-limit", "1", "--json"], catch_exceptions=False
    )
    path = tmp_path / "plan.json"
    path.write_text(planned.stdout, encoding="utf-8")
    code, text = simulate(str(fleet), "--plan", str(path), "--seconds", "20")
    assert code == 0
    assert "opt-125m" in text
    assert "events/s" in text
    for arguments, words in (
        (["--workload", "rain"], "poisson"),
        (["--scale-to-zero", "60"], "--autoscale"),
        (["--trace", str(fleet)], "recorded requests"),
        (["--plan", str(fleet)], "plan"),
    ):
        done = CliRunner().invoke(app, ["tools", "simulate", "fleet", str(fleet), *arguments])
        assert done.exit_code != 0
        assert words in done.output + str(done.exception) + repr(getattr(done, "stderr", ""))
