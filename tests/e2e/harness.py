"""Runs a daemon as a user does: a process, a config file, the client and real signals."""

import asyncio
import atexit
import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import openai

from partitiond.cli import output
from partitiond.cli.main import main
from partitiond.cli.options import read_token
from partitiond.client.client import ControlClient
from partitiond.core.errors import PartitiondError
from partitiond.core.profile.jobs import Job, JobState
from partitiond.core.views.lists import ReplicaView
from partitiond.devices.nvml import library_in_use
from partitiond.platform.tls_files import NO_TLS
from partitiond.settings.schema import load_settings
from tests.machine import (
    WAIT_SECONDS,
    clean_environment,
    free_port,
    pace,
    signal_all,
    wait_for,
)

if TYPE_CHECKING:
    from tests.chaos.nursery import ForkedDaemon, Nursery

FINISHED = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


Command = subprocess.CompletedProcess[str]


def command(*arguments: object, env: Mapping[str, str] | None = None, code: int = 0) -> Command:
    """A command that ends with this exit status, called in this process: a start costs 0.7 s.

    Args:
        arguments: the words after `partitiond`.
        env: the environment; without it, the tests' own without settings.
        code: what it ends with; below 0: anything.
    """
    out, err, before = io.StringIO(), io.StringIO(), dict(os.environ)
    words, mask, found = [str(word) for word in arguments], os.umask(0o022), 0
    try:
        os.environ.clear()
        os.environ.update(clean_environment(before) if env is None else env)
        output.out.cache_clear()
        output.err.cache_clear()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), library_in_use(None):
            main(words)
    except SystemExit as ended:
        found = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    finally:
        os.environ.clear()
        os.environ.update(before)
        os.umask(mask)
        output.out.cache_clear()
        output.err.cache_clear()
    done = Command(words, found, out.getvalue(), err.getvalue())
    assert code < 0 or done.returncode == code, f"{words}: {done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def toml_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    return '"' + str(value) + '"'


def nursery() -> "Nursery":
    """Forks all daemons of this process of tests.

    The first one costs 2 s of imports, a further one 0.4. Tests in a network namespace of their
    own have their own: what is forked stays in the namespace of what forks it.
    """
    return _nursery_in(Path("/proc/self/ns/net").readlink().name)


@functools.cache
def _nursery_in(_namespace: str) -> "Nursery":
    from tests.chaos.nursery import Nursery

    made = Nursery()
    atexit.register(made.close)
    return made


class Fleet:
    """One daemon on a state folder of its own."""

    cold = False
    """Whether it starts as a user's does, and not as a fork of what has all imports."""
    environment: Mapping[str, str] = {}
    """What the daemon's has beside our own."""

    def __init__(self, folder: Path, overrides: Mapping[str, object]) -> None:
        self.folder = folder
        self.run_dir = Path(str(overrides.get("run_dir") or tempfile.mkdtemp(prefix="pd-")))
        self.config = folder / "config.toml"
        values: dict[str, object] = {
            "state_dir": str(folder / "state"),
            "run_dir": str(self.run_dir),
            "control.port": free_port(),
            "proxy.port": free_port(),
            "gpu.enabled": False,
            **overrides,
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text("".join(f"{k} = {toml_value(v)}\n" for k, v in values.items()))
        self.settings = load_settings(self.config, clean_environment(), {}).settings
        self.log = folder / "daemon.log"
        self.process: ForkedDaemon | None = None
        self._sessions = set[int]()
        self._clients: list[openai.OpenAI] = []

    # --- the daemon -------------------------------------------------------------------------

    def start(self, *, seconds: float = 60) -> None:
        """Start the daemon and wait until it is ready."""
        self.launch()
        try:
            wait_for("the daemon to be ready", self._is_ready, seconds=seconds)
        except AssertionError as error:
            error.add_note(f"not ready: {self.problems()}\n{self.log.read_text()[-3000:]}")
            raise

    def launch(self, *words: str) -> None:
        """Start the daemon, or another command that runs until it is ended."""
        words = ("--config", str(self.config), *(words or ("serve",)))
        environment = {**clean_environment(), **self.environment}
        self.process = nursery().start(words, self.log, environment, cold=self.cold)
        self._sessions.add(self.process.pid)

    def _is_ready(self) -> bool:
        return self.problems() == {}

    def problems(self) -> Mapping[str, str] | None:
        """What is not ready in the daemon, by part; None before it answers."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended:\n{self.log.read_text()[-1500:]}")
        with contextlib.suppress(PartitiondError), self.client() as client:
            return client.readiness()
        return None

    def client(self, *, actor: str = "") -> ControlClient:
        return ControlClient(
            self.settings.control_url,
            "",
            actor=actor,
            reread=lambda: read_token(self.settings.token_path),
            timeout=WAIT_SECONDS,  # a user asks again where a busy daemon takes longer
        )

    def cli(self, *arguments: object, code: int = 0) -> Command:
        """A command as a user types it, to its end."""
        return command("--config", self.config, *arguments, code=code)

    def json(self, *arguments: object, code: int = 0) -> Any:
        """What it writes with `--json`."""
        return json.loads(self.cli(*arguments, "--json", code=code).stdout)

    def kill_daemon(self) -> None:
        """SIGKILL, as the kernel would when memory runs out."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def terminate(self, *, seconds: float = 90) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(seconds)
        wait_for("what it forked to end", lambda: not any(map(self._leads, self.processes())))
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """End whatever a failed test left; never relied upon by a passing one."""
        for client in self._clients:
            client.close()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        wait_for("what is killed to be gone", self._killed_all)
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def _killed_all(self) -> bool:
        """Kill what there is; whether there was nothing. What was killed takes a moment to go."""
        there = self.processes()
        signal_all(there)
        return not there

    # --- what the host shows ----------------------------------------------------------------

    def processes(self) -> list[int]:
        """The daemon's session, and every process with this fleet's folders in its command line or
        environment.
        """
        marks = (str(self.run_dir).encode(), str(self.folder).encode())
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                # A zombie has neither.
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                mine = text and self._leads(int(entry.name))
                if mine or any(mark in text for mark in marks):
                    found.append(int(entry.name))
        return sorted(found)

    def _leads(self, pid: int) -> bool:
        """Whether a process is of a session that a daemon of this fleet has led."""
        try:
            return os.getsid(pid) in self._sessions
        except ProcessLookupError:
            return False

    def process_with(self, *words: str) -> int:
        """The one process of this fleet whose command line has all the words."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if all(word in line for word in words):
                    found.append(pid)
        assert found, f"no process with {words}"
        return found[0]

    # --- the steps of a user ----------------------------------------------------------------

    def finish(self, job: Job, *, seconds: float = 0) -> Job:
        with self.client() as client:

            def done() -> Job | None:
                now = client.job(job.id)
                return now if now.state in FINISHED else None

            return wait_for(f"job {job.id}", done, seconds=seconds, pause=0.5)

    def views(self) -> list[ReplicaView]:
        with self.client() as client:
            return list(client.replicas())

    def complete(self, name: str) -> int:
        """Tokens of one completion through the proxy."""
        answer = self.openai().completions.create(
            model=name, prompt="Once upon a time", max_tokens=8, extra_body={"ignore_eos": True}
        )
        assert answer.usage is not None
        return int(answer.usage.completion_tokens)

    def serving(self, count: int, *, seconds: float = 0) -> Sequence[ReplicaView]:
        def ready() -> Sequence[ReplicaView] | None:
            views = self.views()
            good = [view for view in views if view.state == "serving"]
            return good if len(good) == count and len(views) == count else None

        try:
            return wait_for(f"{count} serving replicas", ready, seconds=seconds, pause=0.3)
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{self.views()}\n{self.log.read_text()[-1500:]}"
            ) from error

    @property
    def base_url(self) -> str:
        return f"{self.settings.proxy_url}/v1"

    def openai(self, key: str = "none") -> openai.OpenAI:
        http = openai.DefaultHttpxClient(verify=NO_TLS)
        client = openai.OpenAI(
            base_url=self.base_url, api_key=key, max_retries=0, timeout=300, http_client=http
        )
        self._clients.append(client)
        return client


class JoinedHost(Fleet):
    """A host that joined the fleet of another one: its agent in place of a daemon."""

    join: tuple[str, ...] = ("head",)
    """What it joins, as the words after `host join`."""

    def start(self, *, seconds: float = 120) -> None:
        """Start the agent, and wait until it answers its head."""
        self.log.touch()
        before = self.log.read_text().count("ready: obeys")
        self.launch("host", "join", *self.join)

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            return self.log.read_text().count("ready: obeys") > before

        wait_for(f"the agent in {self.folder}", ready, seconds=seconds)


@dataclasses.dataclass(eq=False)
class Outcome:
    """How one streamed request ended.

    `ended` is "done" for a proper end, "error-event" for an error event and then the end,
    "refused" for a status, "broken" for a connection that broke.
    """

    model: str
    finished: float = 0.0
    ended: str = ""
    tokens: int = 0
    detail: str = ""


_story = itertools.count(1)


async def stream_once(base_url: str, outcome: Outcome, tokens: int) -> None:
    """One streamed completion, read to its end with nothing hidden.

    Each has a prompt of its own, as those of different users have: of identical ones all would be
    refused for a minute after an engine that was killed while it began one.
    """
    import httpx

    body = {
        "model": outcome.model,
        "prompt": f"Once upon a time, in year {next(_story)}",
        "max_tokens": tokens,
        "stream": True,
        "ignore_eos": True,
    }
    try:
        async with (
            httpx.AsyncClient(timeout=httpx.Timeout(300, connect=60), verify=NO_TLS) as client,
            client.stream("POST", f"{base_url}/completions", json=body) as reply,
        ):
            if reply.status_code != 200:
                outcome.ended = "refused"
                outcome.detail = f"{reply.status_code} {(await reply.aread()).decode()[:300]}"
                return
            failed, done = False, False
            async for line in reply.aiter_lines():
                if line == "data: [DONE]":
                    done = True
                elif line.startswith(('data: {"error"', "event: error")):
                    failed, outcome.detail = True, line[:300]
                elif line.startswith("data: "):
                    outcome.tokens += 1
            outcome.ended = "error-event" if failed and done else "done" if done else "broken"
    except httpx.HTTPError as error:
        outcome.ended = "broken"
        outcome.detail = repr(error)
    finally:
        outcome.finished = time.monotonic()


class Load:
    """Closed-loop streams on several models in a thread of its own, while a test does harm."""

    def __init__(self, base_url: str, models: Mapping[str, int], tokens: int) -> None:
        self._base_url = base_url
        self._models = models
        self._tokens = tokens
        self.outcomes: list[Outcome] = []
        self._running: dict[str, list[Outcome]] = {model: [] for model in models}
        self._ending = False

    @contextlib.contextmanager
    def running(self) -> Iterator["Load"]:
        import threading

        thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ending = True
            thread.join(400)
            assert not thread.is_alive(), "a request never ended"

    async def _main(self) -> None:
        async with asyncio.TaskGroup() as group:
            for model, slots in self._models.items():
                for _ in range(slots):
                    group.create_task(self._slot(model))

    async def _slot(self, model: str) -> None:
        while not self._ending:
            outcome = Outcome(model)
            self._running[model].append(outcome)
            await stream_once(self._base_url, outcome, self._tokens)
            self._running[model].remove(outcome)
            self.outcomes.append(outcome)
            if outcome.ended != "done":
                await pace(0.2)

    def streaming(self, model: str) -> list[Outcome]:
        """The streams that have begun and are far from their ends."""
        return [o for o in tuple(self._running[model]) if 0 < o.tokens < self._tokens / 2]

    def of(self, model: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.model == model]
