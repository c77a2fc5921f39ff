"""Runs the proxy as a process of its own, with its control socket at hand."""

import contextlib
import dataclasses
import hashlib
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from partitiond.core.dispatch.routing import (
    KeyRoute,
    ModelAvailability,
    ModelRoute,
    ReplicaRoute,
    RoutingTable,
)
from partitiond.proxy.dispatch.replicas import listens
from partitiond.serde import to_json
from tests.machine import wait_for
from tests.security.recorder import Recorder, recording

KEY = "sk-good"
OTHER_MODEL = "other"


def digest(key: str | bytes) -> str:
    """As keys are stored."""
    raw = key if isinstance(key, bytes) else key.encode()
    return hashlib.sha256(raw).hexdigest()


def key(secret: str | bytes, key_id: str = "k", **changes: Any) -> KeyRoute:
    """A key as the proxy is told of it."""
    return KeyRoute(id=key_id, sha256=digest(secret), **changes)


@dataclasses.dataclass
class Target:
    """A running proxy."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    control_socket: Path
    version: int = 0

    @property
    def log(self) -> str:
        """Its log, so far."""
        return (self.folder / "proxy.log").read_text(errors="replace")

    def control(self, method: str, path: str, content: str | None = None) -> httpx.Response:
        """One request on the control socket."""
        # Without certificates: reading them takes longer than the request.
        transport = httpx.HTTPTransport(
            uds=str(self.control_socket), verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        )
        with httpx.Client(transport=transport, timeout=300) as client:
            return client.request(method, f"http://proxy{path}", content=content)

    def publish(
        self,
        engine: Recorder,
        *,
        keys: Sequence[KeyRoute] = (),
        keys_required: bool = True,
        models: Sequence[ModelRoute] | None = None,
        generation: str = "1-1",
    ) -> None:
        """A table with the models `m` and `other`, both at this engine.

        Another generation is another engine process: what was held against the former is over.
        """
        self.version += 1
        routes = models or [_model("m"), _model(OTHER_MODEL)]
        replicas = [
            ReplicaRoute(f"{r.name}-1", r.name, str(engine.path), generation, 64, 0, 4096)
            for r in routes
        ]
        table = RoutingTable(
            self.version, tuple(routes), tuple(replicas), tuple(keys), keys_required
        )
        answer = self.control("PUT", "/routing", to_json(table))
        assert answer.json() == {"version": self.version, "accepted": True}, answer.text

    def state(self) -> dict[str, Any]:
        """GET /state."""
        found: dict[str, Any] = self.control("GET", "/state").json()
        return found

    def settle(self) -> None:
        """Wait until no request is in flight or queued."""

        def nothing() -> bool:
            state = self.state()
            return not any((*state["in_flight"].values(), *state["queues"].values()))

        wait_for("requests to end", nothing)

    def alive(self) -> bool:
        """Whether it is still the same process."""
        return self.process.poll() is None

    def descriptors(self) -> int:
        """Open file descriptors."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(60)


def _model(name: str) -> ModelRoute:
    return ModelRoute(name, ModelAvailability.SERVING, served_name="m", created_at=1_700_000_000)


def start(folder: Path, **options: Any) -> Target:
    """A proxy on a free port."""
    control = folder / "run" / "c.sock"
    with (folder / "start.log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "partitiond.proxy", "--port", "0",
                "--state-dir", str(folder / "state"), "--control-socket", str(control),
                "--log-file", str(folder / "proxy.log"), "--settings-json", json.dumps(options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )  # fmt: skip
    target = Target(process, folder, 0, control)

    def answers() -> bool:
        assert target.alive(), (folder / "start.log").read_text()
        # Between `bind` and `listen` a connection is refused, and httpcore leaves its socket open.
        return listens(str(control))

    wait_for("the proxy to start", answers, pause=0.02)
    target.port = int(target.state()["port"])
    return target


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[tuple[Target, Recorder]]:
    """A proxy with a recorder behind it; it must still be the same process at the end."""
    with recording(folder / "e.sock") as engine:
        target = start(folder, **options)
        try:
            yield target, engine
            assert target.alive(), target.log[-3000:]
        finally:
            target.stop()
