"""The doctor checks what a host of several needs, and says nothing of it where there is one."""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
    return replace(FACTS, **changes)  # type: ignore[arg-type]


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


def token(mode: int | None, size: int | None) -> ClusterFacts:
    return but(token=TokenFile(Path("/t"), mode, size))


def way(seconds: float | None, problem: str = "", *, mtu_bytes: int | None = None) -> ClusterFacts:
    return but(way=WayToHead("h:1", seconds, problem, mtu_bytes=mtu_bytes))


def beside(**changes: object) -> ClusterFacts:
    """A head, and a host that differs from it."""
    return but(hosts=(HEAD, replace(FINE, **changes)))  # type: ignore[arg-type]


def ray(of_cluster: str) -> ClusterFacts:
    return but(ray_version="2.60.0", ray_of_cluster=of_cluster)


@pytest.mark.parametrize(
    ("check", "verdict", "cases"),
    [
        ("token", None, [token(0o600, 65), token(0o400, 65)]),
        (
            "token",
            "fail",
            [
                *(token(mode, 65) for mode in (0o640, 0o604)),
                *(token(0o600, size) for size in (0, None)),
                token(None, None),
            ],
        ),
        ("clock", None, [beside(clock_offset_seconds=s) for s in (None, 0.0, 0.999, -0.999)]),
        ("clock", "warn", [beside(clock_offset_seconds=s) for s in (1.0, -1.0, 29.9)]),
        ("clock", "fail", [beside(clock_offset_seconds=s) for s in (30.0, -3600.0)]),
        ("clock", "warn", [but(clock_is_kept=False)]),
        ("versions", None, [beside(partitiond_version=v) for v in ("1.2.0", "")]),
        ("versions", "warn", [beside(partitiond_version=v) for v in ("1.2.9", "1.3.0", "1.1.7")]),
        (
            "versions",
            "fail",
            [beside(partitiond_version=v) for v in ("1.4.0", "1.0.9", "2.2.0", "dev")],
        ),
        ("versions", None, [beside(ray_version=v) for v in ("2.60.0", "")]),
        ("versions", "warn", [beside(ray_version=v) for v in ("2.60.1", "2.59.0")]),
        ("versions", None, [but(hosts=(replace(HEAD, ray_version=""), FINE))]),
        ("ray", None, [ray("2.60.0"), ray("")]),
        ("ray", "fail", [ray("2.60.1")]),
        ("head", "fail", [way(None, "refused")]),
        ("head", "warn", [way(0.021)]),
        ("head", None, [way(0.019, mtu_bytes=1280)]),
        ("mtu", "warn", [way(0.001, mtu_bytes=1279)]),
    ],
)
def test_what_a_check_says_of_a_host(
    check: str, verdict: str | None, cases: Sequence[ClusterFacts]
) -> None:
    for facts in cases:
        assert verdicts(facts).get(f"cluster {check}") == verdict, facts


def test_a_clock_of_which_the_kernel_says_nothing_is_not_judged() -> None:
    assert "cluster clock" not in judged(but(clock_is_kept=None))


def test_versions_that_are_no_numbers_are_neighbours_of_themselves_alone() -> None:
    assert are_neighbours("dev", "dev")
    assert not are_neighbours("dev", "1.2.0")


def test_other_engines_are_told() -> None:
    host = replace(FINE, engine_version="0.25.0")
    found = judged(but(hosts=(HEAD, host)))["cluster versions"]
    assert (found.verdict, "0.24.0, 0.25.0" in found.message) == (CheckVerdict.WARN, True)
    none = replace(FINE, engine_version="")
    assert not verdicts(but(hosts=(HEAD, none)))


def test_hosts_that_are_not_fine_are_told_with_their_reason() -> None:
    found = judged(but(hosts=(HEAD, LOST, NEVER)))
    assert found["host gpu-2"].verdict is CheckVerdict.FAIL
    assert "another host has this name" in found["host gpu-3"].message


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
    lost = replace(LOST, address="10.0.0.9")
    hosts = (HEAD, replace(FINE, address="10.0.0.8"), lost, NEVER)
    assert other_addresses(hosts, "", 6380) == ["10.0.0.9:6381", "10.0.0.9:6382"]
    closed = but(closed=(WayToHead("10.0.0.9:6381", None, "Connection timed out"),))
    assert verdicts(closed)["cluster reach"] == "warn"
    assert "10.0.0.9:6381 (Connection timed out)" in judged(closed)["cluster reach"].message
