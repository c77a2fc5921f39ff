"""The doctor says which endpoints of hosts do not reach each other, and which port is taken."""

import socket
from dataclasses import replace
from pathlib import Path

from partitiond.cli.doctor.cluster import WayToHead
from partitiond.cli.doctor.endpoints import (
    EndpointFacts,
    bind_problem,
    check_endpoints,
    examine_endpoints,
    peers_to_try,
)
from partitiond.cli.setup.host import SetupHost
from partitiond.settings.schema import Settings, load_settings
from tests.hosts.fleet import FINE, HEAD, LOST, NEVER

AT = "10.0.0.1:6387"


def said(facts: EndpointFacts) -> list[tuple[str, str]]:
    return [(one.verdict.value, one.message) for one in check_endpoints(facts)]


def test_endpoints_that_reach_each_other_are_no_news() -> None:
    assert said(EndpointFacts(AT, hosts=(HEAD, FINE, LOST, NEVER))) == [
        ("ok", f"{AT}, for those of other hosts")
    ]


def test_who_does_not_reach_whom_is_told_of_hosts_that_answer() -> None:
    head = replace(HEAD, unreached=("gpu-1", "gpu-2"))
    ((verdict, message),) = said(EndpointFacts(AT, hosts=(head, FINE, LOST)))
    assert verdict == "warn"
    assert "endpoint of head does not reach that of gpu-1 at 10.0.0.2:6387" in message
    old = replace(FINE, name="old", peers_address="", unreached=())
    ((verdict, message),) = said(EndpointFacts(AT, hosts=(HEAD, FINE, old)))
    assert (verdict, "the endpoint of old serves no other ones" in message) == ("warn", True)


def test_every_finding_that_is_not_ok_says_what_to_do() -> None:
    closed = (WayToHead("10.0.0.3:6387", None, "No route to host"),)
    apart = tuple(replace(host, peers_address="") for host in (HEAD, FINE))
    worst = check_endpoints(EndpointFacts(AT, "in use", hosts=apart, closed=closed))
    assert [one.verdict.value for one in worst] == ["fail", "warn", "warn"]
    (without,) = check_endpoints(EndpointFacts("", tls=False))
    assert "each endpoint serves what runs on its own host" in without.message
    assert all(one.advice for one in (*worst, without))


def test_ports_are_tried_of_which_nobody_else_tells() -> None:
    assert peers_to_try((), "[fd00::4]:7000", 6388) == ["[fd00::4]:6388"]
    assert peers_to_try((HEAD, FINE, LOST, NEVER), "", 6387) == ["10.0.0.3:6387"]


def test_a_port_that_is_taken_is_found_unless_the_endpoint_has_it(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.4", 0))
        other.listen()
        port = other.getsockname()[1]
        assert "in use" in bind_problem("127.0.0.4", port)
        settings = _of_cluster(tmp_path, port)
        (taken,) = examine_endpoints(settings, SetupHost(tmp_path, live=False), daemon_runs=False)
        (ours,) = examine_endpoints(settings, SetupHost(tmp_path, live=False), daemon_runs=True)
    assert (taken.verdict.value, ours.verdict.value) == ("fail", "ok")
    assert f"127.0.0.4:{port}: Address already in use" in taken.message
    assert "proxy.peers_port" in taken.advice
    assert bind_problem("127.0.0.4", port) == ""


def test_without_a_cluster_nothing_is_said(tmp_path: Path) -> None:
    host = SetupHost(tmp_path, live=False)
    assert examine_endpoints(Settings(state_dir=tmp_path), host, daemon_runs=False) == []


def _of_cluster(folder: Path, port: int) -> Settings:
    values = {
        "state_dir": str(folder),
        "cluster.enabled": True,
        "cluster.trust_engines": True,
        "cluster.address": "127.0.0.4",
        "proxy.peers_port": port,
    }
    return load_settings(overrides=values).settings
