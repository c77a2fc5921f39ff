"""Starts the proxies that are compared, each as a process with one upstream behind it."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from bench.processes import free_port, pinned, stop
from bench.proxy import tools
from bench.proxy.native import Upstream
from partitiond.cluster.authority import ensure_authority, issue
from partitiond.core.dispatch.routing import (
    KeyRoute,
    ModelAvailability,
    ModelRoute,
    PeerRoute,
    ReplicaRoute,
    RoutingTable,
)
from partitiond.proxy.dispatch.replicas import listens
from partitiond.serde import to_json

KEY: Final = "sk-bench-0123456789abcdef0123456789abcdef"
START_SECONDS: Final = 60.0
REPOSITORY: Final = Path(__file__).parents[2]
LARGE: Final = 1 << 30
LONG: Final = 3600.0
MAX_STREAMS: Final = 32_000


@dataclasses.dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy.

    Attributes:
        core: the core that it may use, or None for any.
        pid: root of the process tree whose CPU time and memory count.
        key: API key of the clients' requests.
        behind: process ids of the proxies behind it, whose CPU time counts, too.
        core_behind: the core that they may use, or None for any.
        loose: the proxy rewrites answers, so that bytes cannot be compared.
    """

    name: str
    pid: int
    port: int
    core: int | None = None
    key: str = ""
    loose: bool = False
    control_socket: Path | None = None
    behind: tuple[int, ...] = ()
    core_behind: int | None = None
    table: RoutingTable | None = None


class StartError(Exception):
    """A proxy does not start; the text has the end of its output."""


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """The setting in which every proxy is started.

    Attributes:
        core: the core that it may use, or None for any.
        core_behind: the core of a second proxy behind the first, or None for any.
        options: options of ours, as fields of ProxyOptions.
        tree: another checkout of ours to run instead of this one.
    """

    folder: Path
    upstream: Upstream
    core: int | None
    core_behind: int | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tree: Path = REPOSITORY


@contextlib.contextmanager
def running(
    name: str, setting: Setting, words: Sequence[str | Path], port: int, **proxy: Any
) -> Iterator[Proxy]:
    """Run a program as a proxy; its output goes to a file that is shown if it does not start."""
    with child_of(name, setting, words) as (child, log):
        started = Proxy(
            name, child.pid, port, setting.core, core_behind=setting.core_behind, **proxy
        )
        if started.control_socket is not None:
            publish(started.control_socket, started.table or routing_table(setting), child)
        wait_until_it_answers(started, child, log)
        yield started


@contextlib.contextmanager
def child_of(
    name: str, setting: Setting, words: Sequence[str | Path]
) -> "Iterator[tuple[subprocess.Popen[bytes], Path]]":
    """Run a program on the proxies' core; its output goes to the file that is returned."""
    setting.folder.mkdir(parents=True, exist_ok=True)
    log = setting.folder / f"{name}.out"
    environment = {**os.environ, "PYTHONPATH": str(setting.tree), "LITELLM_LOG": "ERROR"}
    with pinned(setting.core), log.open("wb") as out:
        child = subprocess.Popen(
            [str(word) for word in words],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=setting.tree, env=environment,
        )  # fmt: skip
    try:
        yield child, log
    finally:
        stop(child)


def wait_until_it_answers(
    proxy: Proxy, child: "subprocess.Popen[bytes]", log: Path, seconds: float = START_SECONDS
) -> None:
    """Return once a completion comes back. Raises StartError with the proxy's output."""
    body = json.dumps({"model": "m", "prompt": "#000000000000#", "max_tokens": 4}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {proxy.key or 'x'}"}
    request = urllib.request.Request(f"http://127.0.0.1:{proxy.port}/v1/completions", body, headers)
    deadline, last = time.monotonic() + seconds, ""
    while time.monotonic() < deadline and child.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                answer.read()
            return
        except urllib.error.HTTPError as error:
            last = f"{error.code} {error.read()[:300]!r}"
        except OSError as error:
            last = str(error)
        time.sleep(0.05)
    tail = log.read_text(errors="replace")[-2000:]
    raise StartError(f"{proxy.name} does not answer: {last}\n{tail}")


def program(name: str, package: str) -> Path:
    """A program of this machine; administrators' programs are often not on the path."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise tools.MissingError(f"no {name} here (Debian: apt-get install {package})")
    return Path(found)


@contextlib.contextmanager
def nginx(setting: Setting) -> Iterator[Proxy]:
    """nginx in the usual set-up in front of an engine; its access log is off."""
    found = program("nginx", "nginx-light")
    folder, port = setting.folder / "nginx", free_port()
    folder.mkdir()
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # As root, nginx would switch its workers to a user without access to this folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(f"""{user} daemon off; worker_processes 1;
pid {folder}/pid; error_log {folder}/error.log;
worker_rlimit_nofile {tools.file_limit()};
events {{ worker_connections {MAX_STREAMS * 2}; }}
http {{
  access_log off; keepalive_timeout 1h; keepalive_requests 1000000000;
{temporary}
  upstream engine {{
    server 127.0.0.1:{setting.upstream.port}; keepalive 2048; keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 1h;
    }}
  }}
}}
""")
    words: list[str | Path] = [found, "-p", folder, "-c", config, "-e", folder / "error.log"]
    with running(folder.name, setting, words, port) as proxy:
        yield proxy


@contextlib.contextmanager
def haproxy(setting: Setting) -> Iterator[Proxy]:
    """haproxy with one thread; it logs nothing."""
    found = program("haproxy", "haproxy")
    port = free_port()
    connections = min(MAX_STREAMS, (tools.file_limit() - 200) // 2)
    config = setting.folder / "haproxy.cfg"
    config.write_text(f"""global
  nbthread 1
  maxconn {connections}
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  option http-keep-alive
  option http-no-delay
  http-reuse always
frontend in
  bind 127.0.0.1:{port} backlog 4096
  default_backend engine
backend engine
  server one 127.0.0.1:{setting.upstream.port} pool-max-conn 4096
""")
    with running("haproxy", setting, [found, "-db", "-f", config], port) as proxy:
        yield proxy


@contextlib.contextmanager
def vllm_router(setting: Setting) -> Iterator[Proxy]:
    """The vLLM project's router (Rust), round robin to one worker."""
    port = free_port()
    words: list[str | Path] = [
        tools.environment_program("vllm-router"),
        "--host", "127.0.0.1", "--port", str(port),
        "--worker-urls", f"http://127.0.0.1:{setting.upstream.port}",
        "--policy", "round_robin", "--log-level", "error",
        "--prometheus-port", str(free_port()),
        "--max-concurrent-requests", str(MAX_STREAMS), "--request-timeout-secs", "3600",
    ]  # fmt: skip
    with running("vllm-router", setting, words, port) as proxy:
        yield proxy


@contextlib.contextmanager
def fastapi_httpx(setting: Setting) -> Iterator[Proxy]:
    """The simple proxy of `httpx_proxy.py`."""
    port = free_port()
    words = [
        sys.executable, "-m", "bench.proxy.httpx_proxy",
        "--path", setting.upstream.path, "--port", str(port),
    ]  # fmt: skip
    with running("httpx", setting, words, port) as proxy:
        yield proxy


@contextlib.contextmanager
def litellm(setting: Setting) -> Iterator[Proxy]:
    """litellm's proxy, without a database."""
    port = free_port()
    config = setting.folder / "litellm.json"  # JSON is YAML
    parameters = {
        "model": "text-completion-openai/m",
        "api_base": f"http://127.0.0.1:{setting.upstream.port}/v1",
        "api_key": "x",
    }
    config.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": "m", "litellm_params": parameters}],
                "general_settings": {"master_key": KEY},  # required to start
            }
        )
    )
    words: list[str | Path] = [
        tools.environment_program("litellm"), "--config", config,
        "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False",
    ]  # fmt: skip
    with running("litellm", setting, words, port, key=KEY, loose=True) as proxy:
        yield proxy


@contextlib.contextmanager
def nginx_hop(setting: Setting) -> Iterator[Proxy]:
    """nginx in front of nginx, with TLS and certificates of both between them."""
    found, folder = program("nginx", "nginx-light"), setting.folder / "hop-nginx"
    folder.mkdir()
    files = certificates(folder, ("nginx",))["nginx"]
    tls = f"""
    ssl_certificate {files}/cert.pem; ssl_certificate_key {files}/key.pem;
    ssl_client_certificate {files}/ca.pem; ssl_verify_client on; ssl_protocols TLSv1.3;
"""
    ask = f"""
      proxy_ssl_certificate {files}/cert.pem; proxy_ssl_certificate_key {files}/key.pem;
      proxy_ssl_trusted_certificate {files}/ca.pem; proxy_ssl_verify on;
      proxy_ssl_name nginx; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on;
"""
    inner, port = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        servers = []
        for name, listen, serve, to, more in (
            (
                "inner",
                f"127.0.0.1:{inner} ssl",
                tls,
                f"http://127.0.0.1:{setting.upstream.port}",
                "",
            ),
            ("outer", f"127.0.0.1:{port}", "", f"https://127.0.0.1:{inner}", ask),
        ):
            own = folder / name
            own.mkdir()
            temporary = "\n".join(
                f"  {kind}_temp_path {own}/{kind};"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            address = to.partition("//")[2]
            config = own / "nginx.conf"
            config.write_text(f"""{"user root;" if os.geteuid() == 0 else ""} daemon off;
worker_processes 1; pid {own}/pid; error_log {own}/error.log;
worker_rlimit_nofile {tools.file_limit()};
events {{ worker_connections {MAX_STREAMS * 2}; }}
http {{
  access_log off; keepalive_timeout 1h; keepalive_requests 1000000000;
{temporary}
  upstream next {{ server {address}; keepalive 2048; keepalive_requests 1000000000; }}
  server {{
    listen {listen} backlog=4096;
{serve}
    location / {{
      proxy_pass {to.partition("//")[0]}//next; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_buffering off; proxy_read_timeout 1h;
{more}
    }}
  }}
}}
""")
            words: list[str | Path] = [found, "-p", own, "-c", config, "-e", own / "error.log"]
            servers.append((name, words))
        name, words = servers[0]
        second = dataclasses.replace(setting, core=setting.core_behind)
        behind, _ = stack.enter_context(child_of(f"hop-nginx-{name}", second, words))
        with running("nginx-hop", setting, servers[1][1], port, behind=(behind.pid,)) as proxy:
            yield proxy


@contextlib.contextmanager
def ours_hop(setting: Setting) -> Iterator[Proxy]:
    """partitiond's proxy of one host in front of that of another, with TLS between them."""
    folder = setting.folder / "hop"
    folder.mkdir()
    files = certificates(folder, ("entry", "owner"))
    peers = {name: PeerRoute(name, f"127.0.0.1:{free_port()}") for name in ("entry", "owner")}
    table = routing_table(setting)
    here = {
        "entry": dataclasses.replace(
            table, replicas=(), models=(dataclasses.replace(
                table.models[0], availability=ModelAvailability.UNAVAILABLE, elsewhere=True
            ),),
        ),
        "owner": table,
    }  # fmt: skip
    tables = {
        name: dataclasses.replace(part, host=name, peers=tuple(peers.values()))
        for name, part in here.items()
    }
    behind = dataclasses.replace(setting, core=setting.core_behind)
    options = {
        name: {"peers_address": peer.address, "peers_tls": str(files[name])}
        for name, peer in peers.items()
    }
    with (
        ours(
            dataclasses.replace(behind, options={**setting.options, **options["owner"]}),
            name="hop-owner", table=tables["owner"],
        ) as owner,
        ours(
            dataclasses.replace(setting, options={**setting.options, **options["entry"]}),
            name="hop", folder=folder / "entry", table=tables["entry"], behind=(owner.pid,),
        ) as entry,
    ):  # fmt: skip
        yield entry


def certificates(folder: Path, hosts: Sequence[str]) -> dict[str, Path]:
    """Make an authority, and a folder with a certificate of it for each host."""
    now = datetime.now(UTC)
    ensure_authority(folder / "ca", now)
    found = {}
    for host in hosts:
        found[host] = folder / f"{host}-tls"
        found[host].mkdir()
        for name, text in issue(folder / "ca", host, ["127.0.0.1"], now).by_name().items():
            (found[host] / name).write_text(text)
    return found


@contextlib.contextmanager
def ours(
    setting: Setting,
    *,
    name: str = "ours",
    workers: int = 1,
    folder: Path | None = None,
    table: RoutingTable | None = None,
    behind: tuple[int, ...] = (),
) -> Iterator[Proxy]:
    """partitiond's proxy with everything on: keys, admission, usage, metrics, the log."""
    folder = folder or setting.folder / name.replace(":", "-")
    folder.mkdir()
    options: dict[str, Any] = {"max_connections": MAX_STREAMS, "total_timeout_seconds": LONG}
    options |= {"workers": workers} if workers > 1 else {}
    options |= setting.options
    control, port = folder / "run" / "p.sock", free_port()
    words: list[str | Path] = [
        sys.executable, "-m", "partitiond.proxy", "--port", str(port),
        "--state-dir", folder, "--control-socket", control,
        "--log-file", folder / "proxy.log", "--settings-json", json.dumps(options),
    ]  # fmt: skip
    with running(
        name, setting, words, port, key=KEY, control_socket=control, table=table, behind=behind
    ) as proxy:
        yield proxy


def ours_slo(setting: Setting) -> contextlib.AbstractContextManager[Proxy]:
    """The same for a model that has an SLO, which the upstream meets."""
    return ours(setting, name="ours-slo", table=routing_table(setting, slo=60.0))


def routing_table(setting: Setting, version: int = 1, *, slo: float = 0.0) -> RoutingTable:
    """The table that the daemon would publish: one model on one engine, and the client's key.

    With bounds on TTFT and TPOT (seconds) the proxy learns how fast the engine is.
    """
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    return RoutingTable(
        version=version,
        models=(
            ModelRoute("m", ModelAvailability.SERVING, "m", ttft_seconds=slo, tpot_seconds=slo),
        ),
        replicas=(ReplicaRoute("m-1", "m", setting.upstream.path, "1-1", MAX_STREAMS, 0, LARGE),),
        keys=(KeyRoute("bench", digest),),
        keys_required=True,
    )


def publish(control: Path, table: RoutingTable, child: "subprocess.Popen[bytes]") -> None:
    """Send the routing table as soon as the proxy accepts it."""
    deadline = time.monotonic() + START_SECONDS
    while not listens(str(control)):
        if time.monotonic() > deadline or child.poll() is not None:
            return  # `wait_until_it_answers` reports the reason
        time.sleep(0.05)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(control)), timeout=10) as client:
        answer = client.put("http://proxy/routing", content=to_json(table))
        answer.raise_for_status()


Start = Callable[[Setting], contextlib.AbstractContextManager[Proxy]]


def starter(name: str) -> Start:
    """The function that starts a proxy by name: `ours:N` has N workers.

    Raises:
        KeyError: there is no proxy of this name.
    """
    kind, _, number = name.partition(":")
    if kind == "ours" and number:
        return lambda setting: ours(setting, name=name, workers=int(number))
    if name == "before":
        return lambda setting: ours(setting, name=name)
    return STARTERS[name]


STARTERS: Final[dict[str, Start]] = {
    "ours": ours,
    "ours-slo": ours_slo,
    "hop": ours_hop,
    "nginx": nginx,
    "nginx-hop": nginx_hop,
    "haproxy": haproxy,
    "vllm-router": vllm_router,
    "httpx": fastapi_httpx,
    "litellm": litellm,
}
