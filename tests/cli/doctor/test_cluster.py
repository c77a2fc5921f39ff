"""The doctor checks what a host of several needs, and says nothing of it where there is one."""

import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from partitiond.cli.doctor import cluster, findings
from partitiond.cli.setup.host import SetupHost
from partitiond.cluster.own_files import ensure_own_files
from partitiond.settings.schema import Settings, load_settings

HERE = SetupHost(Path("/nowhere"), live=False)


def of(found: list[findings.DoctorFinding]) -> dict[str, findings.DoctorFinding]:
    return {one.check: one for one in found}


@pytest.mark.parametrize(
    ("seconds", "verdict", "words"),
    [
        (None, "fail", "refused"),
        (0.021, "warn", "far for one fleet"),
        (0.019, "ok", "19.0 ms"),
    ],
)
def test_the_head_answers_and_soon(seconds: float | None, verdict: str, words: str) -> None:
    way = cluster.WayToHead("h:1", seconds, "" if seconds else "refused")
    found = cluster.check_way(way, is_head=False)
    assert (found.verdict, words in found.message) == (verdict, True)
    assert bool(found.advice) == (verdict != "ok")
    assert ("this host's Ray" in cluster.check_way(way, is_head=True).message) == (not seconds)


def test_ports_are_reached_or_the_reason_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        way = cluster.way_to(f"127.0.0.1:{port}")
        assert way.seconds is not None
    gone = cluster.way_to(f"127.0.0.1:{port}")
    assert (gone.seconds, gone.problem != "") == (None, True)
    assert cluster.way_to("no-port").problem


def test_files_are_judged_as_at_the_start_of_the_daemon(tmp_path: Path) -> None:
    assert cluster.examine_cluster(Settings(state_dir=tmp_path), HERE) == [], "no cluster"
    with socket.create_server(("127.0.0.4", 0)) as head:
        values = {"state_dir": str(tmp_path), "cluster.enabled": True,
                  "cluster.trust_engines": True, "cluster.address": "127.0.0.4",
                  "cluster.python": str(tmp_path / "no-python"),
                  "cluster.port": head.getsockname()[1]}  # fmt: skip
        settings = load_settings(overrides=values).settings
        bare = of(cluster.examine_cluster(settings, HERE))
        assert {one.verdict.value for check, one in bare.items() if check != "cluster head"} == {
            "fail"
        }
        assert all(one.advice for one in bare.values() if one.verdict != "ok")
        ensure_own_files(settings, datetime.now(UTC))
        made = of(cluster.examine_cluster(settings, HERE))
        assert {check for check, one in made.items() if one.verdict != "fail"} == {
            "cluster token", "cluster certificate", "cluster head"
        }  # fmt: skip
        settings.cluster_token_path.chmod(0o640)
        (settings.cluster_tls_dir / "key.pem").chmod(0o604)
        opened = of(cluster.examine_cluster(settings, HERE))
    for check in ("cluster token", "cluster certificate"):
        assert (opened[check].verdict, "chmod 600" in opened[check].advice) == ("fail", True)
