"""The control plane of a whole daemon is closed to clients, and secrets stay in their place."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conformance_client import ask
from tests.e2e.harness import Fleet
from tests.security.test_paths import HIDDEN_PATHS

MARK = "S3CRETMARK"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A daemon without an engine: nothing of what is asked here needs one."""
    folder = tmp_path_factory.mktemp("secure")
    found = Fleet(
        folder,
        {
            "engine.python": str(folder / "no-such-python"),
            "models.offline": True,
            "proxy.require_keys": True,
        },
    )
    os.environ["PD_TEST_SECRET"] = f"{MARK}-environment"
    try:
        found.start()
        yield found
    finally:
        del os.environ["PD_TEST_SECRET"]
        found.cleanup()


@pytest.fixture
def admin(fleet: Fleet) -> str:
    return fleet.settings.token_path.read_text().strip()


def control(fleet: Fleet, token: str = "") -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(
        base_url=fleet.settings.control_url, headers=headers, timeout=300, verify=False
    )


def test_the_admin_token_opens_nothing_at_the_data_listener(fleet: Fleet, admin: str) -> None:
    """Not even with the right token: there is no route to the control plane there."""
    url, headers = fleet.settings.proxy_url, [("authorization", f"Bearer {admin}")]
    for path in (*HIDDEN_PATHS, "/", "/openapi"):
        for method in ("GET", "POST", "PUT", "DELETE"):
            answer = ask(url, path, b"{}", method=method, headers=headers)
            assert answer.status == 404, (method, path)
            assert answer.json()["error"]["code"] == "unknown_url", (method, path)
    answer = ask(url, "/v1/completions", b'{"model":"m","prompt":"x"}', headers=headers)
    assert answer.status == 401, "the admin token is no API key"


def test_an_api_key_opens_nothing_at_the_control_listener(fleet: Fleet, admin: str) -> None:
    with control(fleet, admin) as client:
        secret = client.post("/keys", json={}).json()["key"]
    with control(fleet, secret) as client:
        for path in ("/models", "/keys", "/plan", "/metrics", "/openapi.json", "/events"):
            assert client.get(path).status_code == 401
        assert client.post("/shutdown").status_code == 401


@pytest.mark.parametrize(
    "path",
    ["//healthz/../models", "/healthz/../models", "/healthz%2f..%2fmodels", "//models", "/models/"],
)
def test_probes_are_no_way_around_the_admin_token(fleet: Fleet, path: str) -> None:
    assert ask(fleet.settings.control_url, path, method="GET").status == 401


def test_a_page_in_a_browser_can_use_neither_listener(fleet: Fleet, admin: str) -> None:
    """No CORS headers, and preflights are refused: another origin reads and sends nothing."""
    origin = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for url in (fleet.settings.control_url, fleet.settings.proxy_url):
        for method in ("OPTIONS", "GET", "POST"):
            for path in ("/models", "/v1/models", "/v1/completions", "/shutdown"):
                answer = httpx.request(method, url + path, headers=origin, verify=False)
                assert answer.status_code >= 400
                assert not [name for name in answer.headers if name.startswith("access-control")]


def test_both_listeners_are_on_loopback_and_engines_have_no_port(fleet: Fleet) -> None:
    for ours in fleet.processes():
        for address, _ in listening(ours):
            assert address == "127.0.0.1", f"process {ours} listens on {address}"


def listening(pid: int) -> Iterator[tuple[str, int]]:
    """TCP addresses that a process listens on."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(str(entry.readlink()))
        except OSError:
            continue
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                raw, port = words[1].split(":")
                octets = [str(int(raw[i : i + 2], 16)) for i in range(0, 8, 2)]
                yield (".".join(reversed(octets)) if table == "tcp" else raw), int(port, 16)


def test_secrets_are_nowhere_on_disk_but_in_their_file(fleet: Fleet, admin: str) -> None:
    """Of a key its hash is kept; of the admin token the file that only its owner may read."""
    with control(fleet, admin) as client:
        made = client.post("/keys", json={"models": []})
        assert made.status_code in {200, 201}, made.text
        secret = made.json()["key"]
        assert secret not in client.get("/keys").text
        assert secret not in client.get("/events").text
        client.post("/models", json={"model": f"{MARK}-model", f"{MARK}_field": MARK})
        client.post("/models", content=f'{{"{MARK}"'.encode())
        client.post("/plan", json={MARK: MARK})
        client.get(f"/models/nope?token={MARK}")
        assert client.get("/metrics").status_code == 200
    with control(fleet, f"{MARK}-wrong-token") as client:
        assert client.get("/models").status_code == 401
    proxy = httpx.Client(base_url=fleet.settings.proxy_url, timeout=300, trust_env=False)
    with proxy:
        for key in (secret, f"{MARK}-wrong-key"):
            proxy.post(
                "/v1/completions?key=" + MARK,
                json={"model": f"{MARK}-m", "prompt": MARK},
                headers={"Authorization": f"Bearer {key}", "X-Secret": MARK, "Cookie": MARK},
            )
    with sqlite3.connect(fleet.settings.state_dir / "partitiond.sqlite3") as db:
        assert secret[:3] == "sk-"
        assert not [line for line in db.iterdump() if "sk-" in line]
    db.close()
    places = [*fleet.folder.rglob("*"), *fleet.run_dir.rglob("*")]
    for path in places:
        if not path.is_file():
            continue
        data = path.read_bytes()
        assert secret.encode() not in data, f"the key is in {path}"
        assert MARK.encode() not in data, f"a marked secret is in {path}"
        if admin.encode() in data:
            assert path == fleet.settings.token_path


def test_what_lies_in_the_state_folder_is_its_owner_s(fleet: Fleet) -> None:
    state = fleet.folder / "state"
    assert stat.S_IMODE(fleet.settings.token_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(fleet.run_dir.stat().st_mode) & 0o077 == 0


def test_the_proxy_has_little_environment(fleet: Fleet) -> None:
    """What the daemon was started with, secrets among it, stays in the daemon."""
    environment = Path(f"/proc/{fleet.process_with('partitiond.proxy')}/environ").read_bytes()
    names = {entry.partition(b"=")[0].decode() for entry in environment.split(b"\0") if entry}
    assert MARK.encode() not in environment
    assert names <= {
        "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH",
        "PYTHONUNBUFFERED", "LC_CTYPE", "XDG_CACHE_HOME", "PARTITIOND_NATIVE",
        "PARTITIOND_NATIVE_DIR", "MYPYC_OPT_LEVEL",
    }  # fmt: skip


@pytest.mark.parametrize(
    "source",
    [
        {"model": "https://evil.example/model"},
        {"model": "file:///etc"},
        {"model": "../../etc"},
        {"name": "x", "source": {"kind": "url", "ref": "http://127.0.0.1/"}},
        {"name": "../x", "model": "opt-125m"},
        {"model": "opt-125m", "engine": {"extra_args": ["--host", "0.0.0.0"]}},
        {"model": "opt-125m", "engine": {"extra_args": ["--enable-sleep-mode"]}},
        {"model": "opt-125m", "engine": {"env": {"LD_PRELOAD": "/tmp/x.so"}}},
    ],
)
def test_what_would_run_or_open_something_else_is_refused(
    fleet: Fleet, admin: str, source: dict[str, object]
) -> None:
    with control(fleet, admin) as client:
        answer = client.post("/models", json=source)
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.json()["detail"]
        assert client.get("/models").json() == []


def test_there_is_no_control_route_that_is_not_behind_the_token(fleet: Fleet, admin: str) -> None:
    with control(fleet, admin) as client:
        document = client.get("/openapi.json").json()
    with control(fleet) as client:
        for path, item in document["paths"].items():
            for method in item:
                answer = client.request(method.upper(), path.replace("{", "").replace("}", ""))
                expected = {"/healthz": {200}, "/readyz": {200, 503}, "/": {307}}.get(path, {401})
                assert answer.status_code in expected, (method, path)
