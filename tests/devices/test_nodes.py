"""Device nodes of MIG instances are requested one by one, and a failure raises nothing."""

from pathlib import Path

from partitiond.devices.nodes import make_mig_nodes


def test_each_instance_gets_both_its_nodes_and_what_got_none_is_named(tmp_path: Path) -> None:
    there, program = tmp_path / "caps", tmp_path / "bin/nvidia-modprobe"
    program.parent.mkdir()
    nodes = {
        f"{instance}/access"
        for instance in ("gpu0/mig/gi1", "gpu0/mig/gi1/ci0", "gpu3/mig/gi5", "gpu3/mig/gi5/ci0")
    }
    for node in (*nodes, "mig/config"):  # which is not an instance's: it stays root's
        (there / node).parent.mkdir(parents=True, exist_ok=True)
        (there / node).touch()

    def failed(text: str) -> list[str]:
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        found = make_mig_nodes(there, search_path=str(program.parent))
        return [str(Path(path).relative_to(there)) for path in found]

    assert failed(f'echo "$@" >> {tmp_path}/log') == []
    asked = (tmp_path / "log").read_text().splitlines()
    assert {line.removeprefix(f"-f {there}/") for line in asked} == nodes
    assert set(failed('case "$2" in *gpu3*) exit 1 ;; esac')) == {n for n in nodes if "gpu3" in n}
    assert len(make_mig_nodes(there, search_path=str(tmp_path))) == 4
    assert make_mig_nodes(tmp_path / "none", search_path=str(tmp_path)) == ()
