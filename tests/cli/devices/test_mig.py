"""`partitiond devices` shows a simulated host, and `mig` plans, makes and refuses instances."""

import os
from pathlib import Path

import pytest

from partitiond.cli.exits import Exit
from partitiond.core.mig.geometry import Place, place_of
from partitiond.core.units import GIB
from partitiond.devices.partitions.journal import DeviceJournal, EntryKind, place_text
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.cli.conftest import Cli

CUT = [("2g.20gb", 0, 2), ("1g.10gb", 2, 1), ("1g.10gb", 3, 1), ("3g.40gb", 4, 4)]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHost:
    return use(SimulatedHost.create("a100-80gb-mig", tmp_path / "gpus"), monkeypatch)


def use(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> SimulatedHost:
    for name, value in host.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PARTITIOND_GPU__MIG_HELPER", str(host.folder / "no-helper.sock"))
    return host


def places(host: SimulatedHost, index: int) -> list[Place]:
    return [place_of(i) for i in host.geometry(host.uuids()[index])]


def test_slices_are_drawn_with_who_uses_them(cli: Cli, host: SimulatedHost) -> None:
    busy = host.geometry(host.uuids()[0])[3]
    host.add_process(busy.uuid, os.getpid(), GIB)
    drawn = "[2g.20gb──────] [1g.10gb] [1g.10gb] [3g.40gb─────"
    cli("devices mig show").ended(0, drawn, f"process {os.getpid()}", "no instances")
    (gpu,) = cli("devices mig show --json --gpu 0").json
    assert [i["slice_start"] for i in gpu["instances"]] == [0, 2, 3, 4]
    assert gpu["instances"][3]["pids"] == [os.getpid()]
    assert {p["name"] for p in gpu["mig_profiles"]} >= {"7g.80gb", "1g.10gb+me"}
    host.privileged(False)
    assert "are made up" in cli("devices mig show --gpu 0").shown, "a user is not told places"
    assert cli("devices mig plan --geometry 2g.20gb@2 --gpu 0").code == Exit.DEVICE


def test_planning_changes_nothing_and_what_others_use_stays(cli: Cli, host: SimulatedHost) -> None:
    cli("devices mig plan --geometry 4g.40gb,2g.20gb --gpu 0 --replace").ended(
        0, "destroy the GPU instance 3g.40gb@4", "create the GPU instance 4g.40gb@0"
    )
    same = "2g.20gb,1g.10gb,1g.10gb,3g.40gb"
    assert "nothing to do" in cli("devices mig plan --geometry", same, "--gpu", "0").out
    apply = "devices mig apply --geometry 4g.40gb --gpu 0 --yes"
    cli(apply).refused(Exit.DEVICE, "was made by others; nothing was changed", "--replace")
    host.add_process(host.geometry(host.uuids()[0])[0].uuid, os.getpid(), GIB)
    assert "a process runs in 2g.20gb@0" in cli(f"{apply} --replace").err
    assert places(host, 0) == CUT


def test_a_geometry_is_made_after_asking(cli: Cli, host: SimulatedHost) -> None:
    wanted = ("--geometry", "3g.40gb@4,1g.10gb", "--gpu", host.uuids()[1])
    cli("devices mig apply", *wanted).refused(Exit.BAD_INPUT, "--yes")
    assert places(host, 1) == []
    assert cli("devices mig apply", *wanted, "--yes").code == 0
    assert sorted(name for name, _, _ in places(host, 1)) == ["1g.10gb", "3g.40gb"]
    assert cli("devices mig apply", *wanted, "--yes", "--json").json[0]["steps"] == []
    assert cli("devices mig apply --geometry none --gpu 1 --yes --replace").code == 0
    assert places(host, 1) == []


def test_gpus_with_engines_in_their_slices_are_refused(
    cli: Cli, host: SimulatedHost, tmp_path: Path
) -> None:
    state = Path(cli("setup config show --json").json["state_dir"]["value"])
    state.mkdir(parents=True, exist_ok=True)
    first = host.uuids()[0]
    journal = DeviceJournal(state / "devices.json")
    journal.use(first, EntryKind.MIG_INSTANCE, place_text(CUT[3]), "chat-1")
    journal.use(first, EntryKind.MIG_INSTANCE, place_text(CUT[1]), "")
    cli("devices mig show --gpu 0").ended(0, "engine chat-1", "left over, ours")
    cli("devices mig apply --geometry 7g.80gb --gpu 0 --yes --replace").refused(Exit.DEVICE)
    assert places(host, 0) == CUT
    kept = "2g.20gb@0,1g.10gb@3,3g.40gb@4"
    refused = cli("devices mig apply --geometry", kept, "--gpu", "0", "--yes")
    refused.refused(Exit.DEVICE, "engines run in its instances (chat-1)")
    # Without engines what is left over of ours goes without --replace.
    journal.leave("chat-1")
    assert cli("devices mig apply --geometry", kept, "--gpu", "0", "--yes").code == 0
    assert places(host, 0) == [CUT[0], CUT[2], CUT[3]]


def test_bad_input_says_what_to_do(cli: Cli, host: SimulatedHost) -> None:
    for arguments, words in (
        ("plan", "--geometry"),
        ("plan --geometry none", "Say with --gpu"),
        ("plan --geometry 3g.40gb@9 --gpu 1", "GPU 1: an instance of 3g.40gb"),
        ("plan --geometry 5g.5gb --gpu 1", "no MIG profile 5g.5gb"),
        ("show --gpu 7", "there is no GPU '7'"),
    ):
        result = cli(f"devices mig {arguments}")
        assert result.code in {Exit.BAD_INPUT, Exit.NOT_FOUND}
        assert words in result.said
    assert places(host, 0) == CUT


def test_gpus_without_mig_are_shown_and_left_alone(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("devices mig show").refused(Exit.DEVICE, "what to do")
    gpus = (GpuDescription("l4-24gb"), GpuDescription("a100-40gb"))
    host = use(SimulatedHost.create(HostDescription("two", gpus=gpus), tmp_path / "h"), monkeypatch)
    cli("devices mig show").ended(0, "has no MIG", "MIG off")
    plan = "devices mig plan --geometry 1g.5gb --gpu"
    assert "the GPU has no MIG" in cli(plan, 0).out
    assert "turned on, which is not allowed" in cli(plan, 1).out
    assert cli("devices mig apply --geometry 1g.5gb@6 --gpu 1 --mode --yes").code == 0
    assert places(host, 1) == [("1g.5gb", 6, 1)]


def test_devices_are_listed_and_shown_with_how_they_are(cli: Cli, host: SimulatedHost) -> None:
    first = host.uuids()[0]
    host.add_process(first, 2**22 + 1, 3 * GIB)
    cli("devices").ended(0, first[:12], "1 foreign process", "fine", "No daemon answers")
    listed = {device["id"]: device for device in cli("devices --json").json}
    assert list(listed)[-1] == "cpu"
    assert len(listed[first]["mig_instances"]) == 4
    assert listed[first]["foreign"][0]["pid"] == 2**22 + 1
    shown = cli("devices show", first[:12])
    shown.ended(0, first, "Health", "MIG instances", "3g.40gb", "ampere 8.0")
    assert cli("devices show", first, "--json").json["mig_mode"] == "on"
    host.set_mig_mode(first, enabled=False)
    host.set_health(first, remapped_failure=1)
    cli("devices").ended(0, "failed", "remapped")


def test_mistakes_are_answered(
    cli: Cli, host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path
) -> None:
    cli("devices show GPU-none").refused(Exit.NOT_FOUND, "no device GPU-none", host.uuids()[0])
    cli("devices show GPU-").refused(2)
    cli("devices nonsense").refused(2)
    cli("devices cordon cpu").refused(2, "needs a reason")
    cli("devices cordon cpu --reason fan").refused(5, "no daemon answers")
    monkeypatch.setenv("PARTITIOND_GPU__SIMULATED_HOST", str(tmp_path / "none"))
    cli("devices").refused(Exit.NOT_FOUND, "There is no simulated host", "simulate create")
    (home / "state").mkdir(exist_ok=True)
    for written in (b"\xff\xfe\x00", "tök".encode(), b"\x89PNG\r\n"):
        (home / "state" / "admin-token").write_bytes(written)
        cli("status").refused(Exit.FAILED, "admin-token")
