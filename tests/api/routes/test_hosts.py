"""/hosts shows all hosts, and forgets those that are lost."""

import httpx

from tests.api.fake_service import FakeService
from tests.hosts.fleet import FINE, HEAD, LOST, NEVER


async def test_with_one_host_that_one_is_shown_and_the_overview_has_none(
    http: httpx.AsyncClient, service: FakeService
) -> None:
    (shown,) = (await http.get("/hosts")).json()
    assert (shown["name"], shown["state"], shown["is_head"]) == ("head", "fine", True)
    assert (await http.get("/overview")).json()["hosts"] == []


async def test_all_hosts_are_shown_with_what_is_known_of_them(
    http: httpx.AsyncClient, service: FakeService
) -> None:
    service.hosts.hosts = (HEAD, FINE, LOST, NEVER)
    shown = (await http.get("/hosts")).json()
    assert [host["name"] for host in shown] == ["head", "gpu-1", "gpu-2", "gpu-3"]
    assert [host["state"] for host in shown] == ["fine", "fine", "lost", "refused"]
    assert shown[2]["reason"] == LOST.reason
    assert shown[1]["clock_offset_seconds"] == -0.0123
    assert shown[3]["clock_offset_seconds"] is None
    assert (await http.get("/overview")).json()["hosts"] == shown


async def test_a_lost_host_is_forgotten_and_others_are_not(
    http: httpx.AsyncClient, service: FakeService
) -> None:
    service.hosts.hosts = (HEAD, FINE, LOST, NEVER)
    assert (await http.delete("/hosts/gpu-2")).status_code == 204
    assert [host["name"] for host in (await http.get("/hosts")).json()] == [
        "head", "gpu-1", "gpu-3",
    ]  # fmt: skip
    for name, status in {"gpu-2": 404, "head": 409, "gpu-1": 409}.items():
        answer = await http.delete(f"/hosts/{name}")
        assert (answer.status_code, answer.json()["facts"]) == (status, {"host": name})
        assert answer.json()["hint"]
