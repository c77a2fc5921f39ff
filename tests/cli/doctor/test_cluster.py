"""The doctor checks what a host of several needs, and says nothing of it where there is one."""

import contextlib
import socket
from collections.abc import Iterator
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
    ("way", "verdict", "words"),
    [
        ("refused", "fail", "refused"),
        (0.021, "warn", "far for one fleet"),
        (0.019, "ok", "19.0 ms"),
    ],
)
def test_the_head_answers_and_soon(way: float | str, verdict: str, words: str) -> None:
    found = cluster.check_way("h:1", way, is_head=False)
    assert (found.verdict, words in found.message) == (verdict, True)
    assert bool(found.advice) == (verdict != "ok")


def test_ports_are_reached_or_the_reason_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert isinstance(cluster.way_to(f"127.0.0.1:{port}"), float)
    for gone in (f"127.0.0.1:{port}", "no-port"):
        assert isinstance(cluster.way_to(gone) or 0.0, str)


@pytest.mark.parametrize(
    ("waits", "way"),
    [
        ((0.5, 0.125, 0.25), 0.125),
        ((0.5, 0.25, 0.125), 0.125),
        ((0.5, None), 0.5),
        ((None,), "gone"),
    ],
)
def test_the_fastest_of_three_connections_tells_how_far_the_head_is(
    waits: tuple[float | None, ...], way: float | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, left = [0.0], iter(waits)

    @contextlib.contextmanager
    def connect(*to: object) -> Iterator[None]:
        assert to == (("::1", 1), cluster.CONNECT_SECONDS)
        if (wait := next(left)) is None:
            raise ConnectionRefusedError("gone")
        now[0] += wait
        yield
        now[0] += 9.0

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    assert cluster.way_to("[::1]:1") == way


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
    joined = {"cluster.enabled": False, "cluster.head": "127.0.0.5:9"}
    for more, told in (
        ({}, "this host's Ray"),
        (joined, "the head does not answer at 127.0.0.5:9"),
    ):
        asked = load_settings(overrides=values | more).settings
        assert told in of(cluster.examine_cluster(asked, HERE))["cluster head"].message
