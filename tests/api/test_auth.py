"""The admin token is created private, and is required everywhere except at the probes."""

import stat
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from partitiond.api.app import create_app
from partitiond.api.auth import ensure_token
from partitiond.core.errors import SettingsError
from tests.api.conftest import TOKEN, asking
from tests.controller.host import Host

METRICS_TOKEN = "a-metrics-token-for-tests"
NO_TOKENS: tuple[bytes | None, ...] = (
    None, b"", b"Bearer", b"Bearer ", b"Bearer wrong", f"Basic {TOKEN}".encode(), TOKEN.encode(),
    f"Bearer {TOKEN}x".encode(), b"Bearer \xff\xfe", f"Bearer {METRICS_TOKEN}".encode(),
)  # fmt: skip


async def test_without_the_token_nothing_is_told(http: httpx.AsyncClient) -> None:
    bearer = {"Authorization": f"bearer {TOKEN}"}
    assert (await http.get("/models", headers=bearer)).status_code == 200, "in any case"
    del http.headers["Authorization"]
    for path in ("/models", "/metrics", "/openapi.json", "/usage", "/no/such/path"):
        for value in NO_TOKENS:
            headers = {} if value is None else {b"Authorization": value}
            answer = await http.get(path, headers=headers)
            assert answer.status_code == 401, (path, value)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.json()["code"] == "unauthorized"
            assert "admin-token" in answer.json()["hint"]
    for probe, status in (("/healthz", 200), ("/readyz", 503)):
        assert (await http.get(probe)).status_code == status


async def test_the_metrics_token_opens_the_metrics_and_nothing_else(host: Host) -> None:
    """What Prometheus carries: with it nobody reads, changes or ends anything."""
    app = create_app(host.service, admin_token=TOKEN, metrics_token=METRICS_TOKEN)
    async with asking(app, METRICS_TOKEN) as scraper:
        answer = await scraper.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        for path in ("/", "/overview", "/models", "/keys", "/usage", "/metrics/", "//metrics"):
            assert (await scraper.get(path)).status_code == 401, path
        for path in ("/metrics", "/shutdown", "/keys", "/plan/apply"):
            refused = await scraper.post(path, json={})
            assert refused.status_code == 401, path
            assert "metrics token opens GET /metrics" in refused.json()["detail"]
        login = await scraper.post("/ui/session", json={"token": METRICS_TOKEN})
        assert login.status_code == 401
        admin = await scraper.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert admin.status_code == 200


async def test_the_document_describes_the_token(app: FastAPI) -> None:
    document = app.openapi()
    assert document["security"] == [{"adminToken": []}]
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert {"metricsToken": []} in document["paths"]["/metrics"]["get"]["security"]


def test_a_token_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "state" / "admin-token"
    token = ensure_token(path)
    assert len(token) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_token(path) == token
    assert [p.name for p in path.parent.iterdir()] == ["admin-token"]
    path.chmod(0o644)
    ensure_token(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ValueError, match="empty"):
        create_app(Host().service, admin_token="")


@pytest.mark.parametrize("content", [b"", b"\n", b"short\n", b"\xff" * 40])
def test_a_bad_token_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "admin-token"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="admin-token") as caught:
        ensure_token(path)
    assert caught.value.hint
