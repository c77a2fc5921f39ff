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


def test_shipped_hosts_are_listed() -> None:
    listed = json.loads(run("list", "--json").stdout)
    assert {host["name"] for host in listed} == shipped_descriptions().keys()
    assert "h100-80gb-x4" in run("list").stdout


def test_a_host_is_made_and_shown(folder: Path) -> None:
    first, second = gpus(folder)
    assert first["mig"] is True
    assert second["mig_instances"] == []
    assert "3g.40gb@4" in run("show", str(folder)).stdout


def test_creating_says_how_it_is_used(tmp_path: Path) -> None:
    done = run("create", "mixed", "--out", str(tmp_path / "new"))
    assert f"PARTITIOND_GPU__SIMULATED_HOST={tmp_path / 'new'}" in done.stdout


def test_things_happen_to_it(folder: Path) -> None:
    host = SimulatedHost.open(folder)
    for words in (
        ["process", "4194304", "10GiB", "--gpu", "1"],
        ["lose", "--gpu", host.uuids()[0]],
        ["health", "ecc=3", "temperature_c=80", "--gpu", "1"],
        ["load", "power_watts=300.5"],
        ["privileged", "off"],
        ["fail", "mig", "19", "--times", "-1"],
        ["heal"],
        ["xid", "31"],
    ):
        assert run("break", str(folder), *words).exit_code == 0
    first, second = gpus(folder)
    assert (first["lost"], second["used_bytes"]) == (True, 10 << 30)
    assert host.figure(host.uuids()[1], "ecc_uncorrected_volatile") == 3
    assert host.figure(host.uuids()[0], "power_watts") == 300.5
    assert run("break", str(folder), "reboot").exit_code == 0
    assert [gpu["used_bytes"] for gpu in gpus(folder)] == [0, 0]


@pytest.mark.parametrize(
    "words",
    [
        ["explode"],
        ["xid"],
        ["xid", "many"],
        ["process", "1", "lots"],
        ["privileged", "maybe"],
        ["health"],
        ["health", "mood=1"],
        ["health", "ecc"],
        ["health", "ecc=-1"],
        ["lose", "--gpu", "9"],
        ["lose", "--gpu", "GPU-none"],
        ["lose", "--gpu", "GPU-"],
        ["lose", "--gpu", ""],
        ["xid", "0"],
        ["xid", "99999999999999999999"],
        ["process", "99999999999999", "1GiB"],
        ["process", "4711", "9999TiB"],
        ["fail", "nvmlNoSuchCall", "3"],
        ["fail", "mig", "99999999999999"],
        ["fail", "x" * 300, "3"],
        ["fail", "nvml*" + "x" * 300, "3"],
        ["mps", "explode"],
        ["mps", "fault"],  # none runs
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(folder: Path, words: list[str]) -> None:
    before = gpus(folder)
    with pytest.raises(InputError) as refused:
        run("break", str(folder), *words)
    assert refused.value.hint
    assert gpus(folder) == before


def test_the_beginning_of_a_uuid_names_a_gpu_and_a_process_can_go(folder: Path) -> None:
    second = SimulatedHost.open(folder).uuids()[1]
    for size, used in (("10GiB", 10 << 30), ("0", 0)):
        assert (
            run("break", str(folder), "process", "4194304", size, "--gpu", second[:12]).exit_code
            == 0
        )
        assert gpus(folder)[1]["used_bytes"] == used


def test_the_mode_of_a_gpu_in_use_does_not_change(folder: Path) -> None:
    run("break", str(folder), "process", "4194304", "1GiB")
    with pytest.raises(InputError, match="while processes use it"):
        run("break", str(folder), "mig", "off")
    assert gpus(folder)[0]["mig"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(DeviceError, match="Not a directory"):
        run("create", "mixed", "--out", str(tmp_path / "file" / "host"))
