"""The doctor checks what a host of several needs, and says nothing of it where there is one."""

import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.cli.doctor.cluster import (
    ClusterFacts,
    TokenFile,
    WayToHead,
    are_neighbours,
    check_cluster,
    clock_is_kept,
    examine_cluster,
    listening_everywhere,
    on_all_addresses,
    other_addresses,
    token_file,
    way_to,
)
from partitiond.cli.doctor.findings import CheckVerdict, DoctorFinding
from partitiond.cli.setup.host import SetupHost
from partitiond.cluster.directory import DirectoryAnswer
from partitiond.settings.schema import Settings
from tests.hosts.fleet import FINE, HEAD, LOST, NEVER

FACTS = ClusterFacts(
    name="gpu-1",
    is_head=False,
    token=TokenFile(Path("/state/cluster-token"), 0o600, 65),
    way=WayToHead("head:6380", 0.0004, mtu_bytes=1500),
    clock_is_kept=True,
    ray="Ray 2.60.0",
)


def judged(facts: ClusterFacts) -> dict[str, DoctorFinding]:
    """The worst finding of each check."""
    order = list(CheckVerdict)
    return {f.check: f for f in sorted(check_cluster(facts), key=lambda f: order.index(f.verdict))}


def verdicts(facts: ClusterFacts) -> dict[str, str]:
    return {f.check: f.verdict.value for f in judged(facts).values() if f.verdict != "ok"}


def but(**changes: object) -> ClusterFacts:
    return dataclasses.replace(FACTS, **changes)  # type: ignore[arg-type]


def test_a_host_that_is_as_it_should_be_has_no_warning() -> None:
    found = judged(FACTS)
    assert set(found) == {"cluster ray", "cluster token", "cluster head", "cluster clock"}
    assert not verdicts(FACTS)
    assert "0.4 ms" in found["cluster head"].message


def test_every_finding_that_is_not_ok_says_what_to_do() -> None:
    worst = but(
        token=TokenFile(Path("/t"), 0o644, 65), way=WayToHead("h:1", None, "refused"),
        open_ports=(6380, 6381), clock_is_kept=False, hosts=(HEAD, FINE, LOST, NEVER),
        ray_problem="no Ray.", ray_hint="install it.", models_free_bytes=1,
    )  # fmt: skip
    found = [f for f in check_cluster(worst) if f.verdict is not CheckVerdict.OK]
    assert len(found) == 8
    assert all(finding.advice for finding in found)


@pytest.mark.parametrize(
    ("mode", "size", "verdict"),
    [
        (0o600, 65, None),
        (0o400, 65, None),
        (0o640, 65, "fail"),
        (0o604, 65, "fail"),
        (0o600, 0, "fail"),
        (0o600, None, "fail"),
        (None, None, "fail"),
    ],
)
def test_a_token_is_for_its_owner_alone(
    mode: int | None, size: int | None, verdict: str | None
) -> None:
    facts = but(token=TokenFile(Path("/t"), mode, size))
    assert verdicts(facts).get("cluster token") == verdict


@pytest.mark.parametrize(
    ("offset", "verdict"),
    [
        (None, None), (0.0, None), (0.999, None), (-0.999, None), (1.0, "warn"), (-1.0, "warn"),
        (29.9, "warn"), (30.0, "fail"), (-3600.0, "fail"),
    ],
)  # fmt: skip
def test_clocks_are_compared_with_the_heads(offset: float | None, verdict: str | None) -> None:
    host = dataclasses.replace(FINE, clock_offset_seconds=offset)
    assert verdicts(but(hosts=(HEAD, host))).get("cluster clock") == verdict
    assert verdicts(but(clock_is_kept=False))["cluster clock"] == "warn"
    assert "cluster clock" not in judged(but(clock_is_kept=None))


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("1.2.0", None), ("1.2.9", "warn"), ("1.3.0", "warn"), ("1.1.7", "warn"),
        ("1.4.0", "fail"), ("1.0.9", "fail"), ("2.2.0", "fail"), ("dev", "fail"), ("", None),
    ],
)  # fmt: skip
def test_releases_are_equal_or_neighbours(version: str, verdict: str | None) -> None:
    host = dataclasses.replace(FINE, partitiond_version=version)
    assert verdicts(but(hosts=(HEAD, host))).get("cluster versions") == verdict


def test_versions_that_are_no_numbers_are_neighbours_of_themselves_alone() -> None:
    assert are_neighbours("dev", "dev")
    assert not are_neighbours("dev", "1.2.0")


@pytest.mark.parametrize(
    ("version", "verdict"), [("2.60.0", None), ("2.60.1", "warn"), ("2.59.0", "warn"), ("", None)]
)
def test_another_ray_is_told(version: str, verdict: str | None) -> None:
    host = dataclasses.replace(FINE, ray_version=version)
    assert verdicts(but(hosts=(HEAD, host))).get("cluster versions") == verdict
    assert "cluster versions" not in verdicts(
        but(hosts=(dataclasses.replace(HEAD, ray_version=""), FINE))
    )


@pytest.mark.parametrize(("cluster", "verdict"), [("2.60.0", None), ("2.60.1", "fail"), ("", None)])
def test_a_host_whose_ray_cannot_join_is_told(cluster: str, verdict: str | None) -> None:
    facts = but(ray_version="2.60.0", ray_of_cluster=cluster)
    assert verdicts(facts).get("cluster ray") == verdict


def test_other_engines_are_told() -> None:
    host = dataclasses.replace(FINE, engine_version="0.25.0")
    found = judged(but(hosts=(HEAD, host)))["cluster versions"]
    assert (found.verdict, "0.24.0, 0.25.0" in found.message) == (CheckVerdict.WARN, True)
    none = dataclasses.replace(FINE, engine_version="")
    assert not verdicts(but(hosts=(HEAD, none)))


def test_hosts_that_are_not_fine_are_told_with_their_reason() -> None:
    found = judged(but(hosts=(HEAD, LOST, NEVER)))
    assert found["host gpu-2"].verdict is CheckVerdict.FAIL
    assert "another host has this name" in found["host gpu-3"].message


@pytest.mark.parametrize(
    ("way", "check", "verdict"),
    [
        (WayToHead("h:1", None, "refused"), "cluster head", "fail"),
        (WayToHead("h:1", 0.021), "cluster head", "warn"),
        (WayToHead("h:1", 0.019, mtu_bytes=1280), "cluster head", None),
        (WayToHead("h:1", 0.001, mtu_bytes=1279), "cluster mtu", "warn"),
    ],
)
def test_the_way_to_the_head_is_there_near_and_wide(
    way: WayToHead, check: str, verdict: str | None
) -> None:
    assert verdicts(but(way=way)).get(check) == verdict


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_a_port_is_reached_or_the_reason_is_told(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    way = way_to(f"127.0.0.1:{port}")
    assert way.seconds is not None
    assert way.mtu_bytes is None or way.mtu_bytes > 0
    listener.close()
    gone = way_to(f"127.0.0.1:{port}")
    assert gone.seconds is None
    assert gone.problem
    assert way_to("no-port").problem


def test_listeners_on_all_addresses_are_told_from_others(listener: socket.socket) -> None:
    heard = [("0.0.0.0", 7), ("127.0.0.1", 8), ("::", 6), ("::1", 9), ("::", 7)]
    assert on_all_addresses(heard) == [6, 7]
    assert listener.getsockname()[1] not in listening_everywhere()


def test_a_tokens_file_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert token_file(path) == TokenFile(path, None, None)
    path.write_text("secret\n")
    path.chmod(0o600)
    assert token_file(path) == TokenFile(path, 0o600, 7)


def test_the_kernel_is_asked_for_its_clock() -> None:
    assert clock_is_kept() in {True, False, None}


def test_without_a_cluster_nothing_is_said(tmp_path: Path) -> None:
    assert examine_cluster(Settings(state_dir=tmp_path), SetupHost(tmp_path, live=False)) == []


def test_a_ray_that_lets_strangers_in_is_told() -> None:
    let_in, refused = DirectoryAnswer(answers=True, ray="2.60.0"), DirectoryAnswer(refused=True)
    for answer, verdict in ((let_in, "fail"), (refused, None), (DirectoryAnswer(), None)):
        assert verdicts(but(stranger=answer)).get("cluster token") == verdict
    told = judged(but(stranger=let_in))["cluster token"]
    assert "head:6380 asks for no token" in told.message
    assert "RAY_AUTH_MODE=token" in told.advice


def test_ports_beside_the_directory_are_tried_where_something_may_be_wrong() -> None:
    assert other_addresses((), "[fd00::4]:7000", 6380) == ["[fd00::4]:7001", "[fd00::4]:7002"]
    lost = dataclasses.replace(LOST, address="10.0.0.9")
    hosts = (HEAD, dataclasses.replace(FINE, address="10.0.0.8"), lost, NEVER)
    assert other_addresses(hosts, "", 6380) == ["10.0.0.9:6381", "10.0.0.9:6382"]
    closed = but(closed=(WayToHead("10.0.0.9:6381", None, "Connection timed out"),))
    assert verdicts(closed)["cluster reach"] == "warn"
    assert "10.0.0.9:6381 (Connection timed out)" in judged(closed)["cluster reach"].message
