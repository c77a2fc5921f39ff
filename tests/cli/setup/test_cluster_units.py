"""`partitiond setup` makes a host one of several, keeps it that, and takes it back."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from partitiond.cli.setup import cluster_units as units
from partitiond.cli.setup.host import ClusterPlace, SetupHost
from partitiond.cluster import authority
from partitiond.cluster.bundle import Bundle, write_bundle
from partitiond.cluster.certificates import check_files
from partitiond.core.errors import InputError
from partitiond.settings.schema import load_settings
from tests.cli.conftest import Cli

UNITS = "etc/systemd/system"
DROP_IN = f"{UNITS}/partitiond.service.d/40-cluster.conf"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle for gpu-1, as its head made it."""
    now = datetime.now(UTC)
    authority.ensure_authority(tmp_path / "ca", now)
    files = authority.issue(tmp_path / "ca", "gpu-1", ["127.0.0.5"], now)
    return write_bundle(tmp_path, Bundle("gpu-1", "0123456789abcdef" * 4, files))


def files(folder: Path) -> dict[str, bytes]:
    """Links too, by what they name: one of a unit that is gone dangles."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = bytes(path.readlink())
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def enabled(image: Path) -> set[str]:
    return {p.name for p in (image / UNITS / "multi-user.target.wants").iterdir()}


def test_a_head_is_set_up_kept_and_made_one_host_again(cli: Cli, image: Path) -> None:
    def setup(*words: str) -> int:
        return cli("setup --root", image, "--no-gpu", *words, "--apply").code

    assert setup() == 0
    alone = files(image / "etc")
    assert setup("--cluster", "--address", "127.0.0.4") == 0
    text = (image / units.ENVIRONMENT.lstrip("/")).read_text()
    assert "PARTITIOND_CLUSTER__ENABLED=true\n" in text
    assert "PARTITIOND_CLUSTER__ADDRESS=127.0.0.4\n" in text
    assert "ExecStart" not in (image / DROP_IN).read_text()
    assert "partitiond-ray.service" in enabled(image)
    made = files(image)
    assert setup() == 0, "a setup without the option keeps the host's place"
    assert files(image) == made
    assert setup("--join", "gpu-head", "--from", "/nowhere") == 2, "one place at a time"
    assert setup("--no-cluster") == 0
    there = files(image / "etc")
    assert {name for name in alone if alone[name] != there.get(name)} == set()
    assert not [
        name for name in there if "cluster" in name or name.endswith("/partitiond-ray.service")
    ]


def test_a_host_joins_by_a_bundle_and_undo_leaves_nothing(
    cli: Cli, image: Path, bundle: Path
) -> None:
    words = ("setup", "--root", image, "--no-gpu", "--join", "gpu-head", "--from", bundle)
    before = files(image)
    shown = cli(*words)
    assert shown.code == 0
    assert files(image) == before
    assert cli(*words, "--apply").code == 0
    host = SetupHost(image, live=False)
    assert units.installed_place(host) == ClusterPlace("gpu-head:6380", "gpu-1")
    assert "\nExecStart=\nExecStart=/opt/partitiond/bin/partitiond host join\n" in (
        (image / DROP_IN).read_text()
    )
    check_files(image / units.TLS.lstrip("/"), ["127.0.0.5"])
    made = files(image)
    assert cli(*words, "--apply").code == 0
    assert files(image) == made
    assert cli("setup --root", image, "--undo", "--apply", "--purge").code == 0
    left = [name for name in files(image) if "cluster" in name or "ray" in name]
    assert left == []
    assert not (image / units.TOKEN.lstrip("/")).exists()


def test_a_host_that_obeys_a_head_leaves_it_first(cli: Cli, image: Path, bundle: Path) -> None:
    words = ("setup", "--root", image, "--no-gpu")
    cli(*words, "--join", "gpu-head", "--from", bundle, "--apply")
    (image / units.JOINED.lstrip("/")).write_text("{}")
    assert "obeys" in cli(*words, "--no-cluster").out
    cli(*words, "--no-cluster", "--apply")
    assert (image / DROP_IN).exists()


def test_what_makes_no_sense_is_refused(cli: Cli, tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "root").mkdir()
    for words in (
        "--cluster --join gpu-head",
        "--from x",
        "--address 127.0.0.4",
        "--no-cluster --address 127.0.0.4",
        "--join gpu-head",  # with what?
        "--join gpu-head --from /nowhere",
        "--cluster --no-engine-user",
    ):
        cli("setup --root", tmp_path / "root", *words.split()).refused(2)
    for head, address in (("gpu head", None), ("gpu-head\nX=1", None), ("gpu-head", "a\nX=1"),
                          (None, "$(x)")):  # fmt: skip
        with pytest.raises(InputError):
            units.checked_place(head, address, bundle)
    place = ClusterPlace("10.0.0.4:6380", "gpu-1", "10.0.0.5", bundle)
    assert units.checked_place("10.0.0.4", "10.0.0.5", bundle) == place


@pytest.mark.parametrize(
    "place", [ClusterPlace("", "gpu-1"), ClusterPlace("gpu-head:6380", "gpu-1", "10.0.0.5")]
)
def test_daemon_rays_keeper_and_doctor_read_what_setup_writes(
    tmp_path: Path, place: ClusterPlace
) -> None:
    """Only the units read the file: who looks at the service's state folder is told its place."""
    host = SetupHost(tmp_path, live=False)
    service, other = (
        load_settings(overrides={"state_dir": folder}).settings
        for folder in ("/var/lib/partitiond", "/srv/other")
    )
    assert units.as_installed(service, host) is service
    host.file(units.ENVIRONMENT).parent.mkdir(parents=True)
    host.file(units.ENVIRONMENT).write_text(units.environment_text(place))
    assert units.installed_place(host) == place
    assert units.ENVIRONMENT in units.drop_in_text(place)
    lines = units.environment_text(place).splitlines()
    given = dict(line.split("=", 1) for line in lines if line.startswith("PARTITIOND_"))
    read = load_settings(None, given, {"state_dir": str(tmp_path)}).settings
    assert read.engine.launcher == Path("/run/partitiond-engine.sock")
    for settings in (read, units.as_installed(service, host)):
        found = settings.cluster
        assert (found.enabled, found.joined) == (not place.head, bool(place.head))
        assert (found.head or "", found.address or "") == (place.head, place.address)
        assert settings.host.own_name == "gpu-1"
        assert not found.manage_ray, "its unit keeps Ray running"
    assert units.as_installed(other, host) is other
