"""The doctor checks what a host of several needs, and says nothing of it where there is one."""

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from partitiond.cli.doctor import cluster, findings
from partitiond.cli.setup.host import SetupHost
from partitiond.settings.schema import Settings, load_settings
from tests.hosts.fleet import FINE, HEAD, LOST, NEVER

FACTS = cluster.ClusterFacts(
    name="gpu-1",
    is_head=False,
    token=cluster.TokenFile(Path("/state/cluster-token"), 0o600, 65),
    way=cluster.WayToHead("head:6380", 0.0004),
    ray="Ray 2.60.0",
)


def judged(facts: cluster.ClusterFacts) -> dict[str, findings.DoctorFinding]:
    """The worst finding of each check."""
    order = list(findings.CheckVerdict)
    return {
        f.check: f
        for f in sorted(cluster.check_cluster(facts), key=lambda f: order.index(f.verdict))
    }


def verdicts(facts: cluster.ClusterFacts) -> dict[str, str]:
    return {f.check: f.verdict.value for f in judged(facts).values() if f.verdict != "ok"}


def but(**changes: object) -> cluster.ClusterFacts:
    return replace(FACTS, **changes)  # type: ignore[arg-type]


def token(mode: int | None, size: int | None) -> cluster.ClusterFacts:
    return but(token=cluster.TokenFile(Path("/t"), mode, size))


def way(seconds: float | None, problem: str = "") -> cluster.ClusterFacts:
    return but(way=cluster.WayToHead("h:1", seconds, problem))


@pytest.mark.parametrize(
    ("check", "verdict", "cases"),
    [
        ("token", None, [token(0o600, 65), token(0o400, 65)]),
        ("token", "fail", [token(0o640, 65), token(0o604, 65), token(0o600, 0),
                           token(0o600, None), token(None, None)]),
        ("head", "fail", [way(None, "refused")]),
        ("head", "warn", [way(0.021)]),
        ("head", None, [way(0.019)]),
    ],
)  # fmt: skip
def test_what_a_check_says_of_a_host(
    check: str, verdict: str | None, cases: Sequence[cluster.ClusterFacts]
) -> None:
    for facts in cases:
        assert verdicts(facts).get(f"cluster {check}") == verdict, facts


def test_a_finding_says_what_was_found_and_what_to_do() -> None:
    found = judged(FACTS)
    assert set(found) == {"cluster ray", "cluster token", "cluster head"}
    assert not verdicts(FACTS)
    assert "0.4 ms" in found["cluster head"].message
    worst = but(
        token=cluster.TokenFile(Path("/t"), 0o644, 65),
        way=cluster.WayToHead("h:1", None, "refused"),
        ray_problem="no Ray.", ray_hint="install it.",
    )  # fmt: skip
    wrong = [f for f in cluster.check_cluster(worst) if f.verdict is not findings.CheckVerdict.OK]
    assert len(wrong) == 3
    assert all(finding.advice for finding in wrong)
    assert cluster.other_addresses((), "[fd00::4]:7000", 6380) == [
        "[fd00::4]:7001",
        "[fd00::4]:7002",
    ]
    lost = replace(LOST, address="10.0.0.9")
    four = (HEAD, replace(FINE, address="10.0.0.8"), lost, NEVER)
    assert cluster.other_addresses(four, "", 6380) == ["10.0.0.9:6381", "10.0.0.9:6382"]
    closed = but(closed=(cluster.WayToHead("10.0.0.9:6381", None, "Connection timed out"),))
    assert verdicts(closed)["cluster reach"] == "warn"
    assert "10.0.0.9:6381 (Connection timed out)" in judged(closed)["cluster reach"].message


def test_ports_are_reached_or_the_reason_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        way = cluster.way_to(f"127.0.0.1:{port}")
        assert way.seconds is not None
    gone = cluster.way_to(f"127.0.0.1:{port}")
    assert (gone.seconds, gone.problem != "") == (None, True)
    assert cluster.way_to("no-port").problem


def test_the_host_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert cluster.token_file(path) == cluster.TokenFile(path, None, None)
    path.write_text("secret\n")
    path.chmod(0o600)
    assert cluster.token_file(path) == cluster.TokenFile(path, 0o600, 7)
    host = SetupHost(tmp_path, live=False)
    alone = cluster.examine_cluster(Settings(state_dir=tmp_path), host, daemon_runs=False)
    assert alone == [], "no cluster"


AT = "10.0.0.1:6387"


def test_every_finding_on_endpoints_that_is_not_ok_says_what_to_do() -> None:
    closed = (cluster.WayToHead("10.0.0.3:6387", None, "No route to host"),)
    worst = cluster.check_endpoints(cluster.EndpointFacts(AT, "in use", closed=closed))
    assert [one.verdict.value for one in worst] == ["fail", "warn"]
    assert all(one.advice for one in worst)
    # Ports are tried of which nobody else tells.
    assert cluster.peers_to_try((), "[fd00::4]:7000", 6388) == ["[fd00::4]:6388"]
    assert cluster.peers_to_try((HEAD, FINE, LOST, NEVER), "", 6387) == ["10.0.0.3:6387"]


def test_a_port_that_is_taken_is_found_unless_the_endpoint_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.4", 0)) as other:
        port = other.getsockname()[1]
        values = {"state_dir": str(tmp_path), "cluster.enabled": True, "proxy.peers_port": port,
                  "cluster.trust_engines": True, "cluster.address": "127.0.0.4"}  # fmt: skip
        settings = load_settings(overrides=values).settings
        taken = cluster.endpoint_facts(settings, (), daemon_runs=False)
        ours = cluster.endpoint_facts(settings, (), daemon_runs=True)
    assert taken == cluster.EndpointFacts(f"127.0.0.4:{port}", "Address already in use")
    assert ours.problem == ""
    (finding,) = cluster.check_endpoints(taken)
    assert "proxy.peers_port" in finding.advice
