"""Device nodes of MIG instances are requested one by one, and a failure raises nothing."""

from pathlib import Path

from partitiond.devices.nodes import make_mig_nodes


def capabilities(folder: Path) -> Path:
    for instance in ("gpu0/mig/gi1/ci0", "gpu3/mig/gi5/ci0"):
        (folder / instance).mkdir(parents=True)
        (folder / instance / "access").touch()
        (folder / instance).parent.joinpath("access").touch()
    (folder / "mig").mkdir()
    (folder / "mig" / "config").touch()  # not an instance's: it stays root's
    return folder


def program(folder: Path, text: str) -> str:
    folder.mkdir()
    file = folder / "nvidia-modprobe"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(folder)


def test_each_instance_gets_both_its_nodes(tmp_path: Path) -> None:
    there = capabilities(tmp_path / "caps")
    path = program(tmp_path / "bin", f'echo "$@" >> {tmp_path}/log')
    assert make_mig_nodes(there, search_path=path) == ()
    asked = (tmp_path / "log").read_text().splitlines()
    assert {line.removeprefix(f"-f {there}/") for line in asked} == {
        "gpu0/mig/gi1/access",
        "gpu0/mig/gi1/ci0/access",
        "gpu3/mig/gi5/access",
        "gpu3/mig/gi5/ci0/access",
    }


def test_what_got_no_node_is_named_and_nothing_is_raised(tmp_path: Path) -> None:
    there = capabilities(tmp_path / "caps")
    path = program(tmp_path / "bin", 'case "$2" in *gpu3*) exit 1 ;; esac')
    failed = make_mig_nodes(there, search_path=path)
    assert [Path(f).relative_to(there).parts[0] for f in failed] == ["gpu3", "gpu3"]
    assert len(make_mig_nodes(there, search_path=str(tmp_path))) == 4


def test_without_instances_nothing_is_asked(tmp_path: Path) -> None:
    assert make_mig_nodes(tmp_path / "none", search_path=str(tmp_path)) == ()
