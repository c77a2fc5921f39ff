"""Carries messages from a Unix socket to the agents of all hosts, through Ray.

Run as a program by an interpreter that has Ray: `python -I bridge.py SETTINGS`, where SETTINGS is
JSON (see `BridgeSettings`). It imports the standard library and Ray alone, so the interpreter need
not have partitiond. It is a process of its own because Ray ends a driver that lost its control
service. Ray is imported when it is joined, so that whoever has no Ray can test the rest.

On each node there is a relay, a detached actor. The bridge asks the relay of a host, and the relay
asks the agent at the socket that its node was started with:

    daemon --socket--> bridge --Ray--> relay (on the host) --socket--> agent

Frames are those of `partitiond.hosts.line`, written again here: that module cannot be imported, and
the relay's code travels with the bridge's own (`__main__` is pickled by value). A message for the
host "" is a question to the bridge itself.

A message may come late, as by a relay that was stopped and goes on: an agent begins no call that
its head has given up, and ends it once the head's next message says so (`partitiond.hosts.calls`).

The bridge ends when its standard input does (exit status 0), when Ray cannot be joined (3), or when
Ray is gone (4); who started it starts it again.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

RELAY_VERSION: Final = 2
"""Of what bridge and relay say to each other. Another version has relays of its own."""
NAMESPACE: Final = "partitiond"
HOST_LABEL: Final = "partitiond.host"
IDENTITY_LABEL: Final = "partitiond.id"
SINCE_LABEL: Final = "partitiond.since"
SOCKET_VARIABLE: Final = "PARTITIOND_AGENT_SOCKET"
"""Environment variable of a node's processes: the socket of the agent on that host."""

MOST_BYTES: Final = 64 * 1024 * 1024
"""Size of the largest frame that is read; as in `partitiond.hosts.line`."""
READ_SECONDS: Final = 10.0
"""Longest time for a message to come once its connection is open; as in `partitiond.hosts.line`."""
MARGIN_SECONDS: Final = 1.0
"""Time beyond a message's deadline in which the relay says why there is no answer. Less than the
daemon waits beyond the deadline (`partitiond.hosts.line`)."""
LOOK_SECONDS: Final = 1.0
"""Time between two looks at the nodes. Chosen: a new host is reached within a second or two; a look
costs the control service some 3 ms, and a connection."""
GONE_SECONDS: Final = 50.0
"""Age of the last look from which Ray is gone. Ray ends a driver itself 60 s after the control
service is gone; the bridge comes first, to say why."""
JOIN_SECONDS: Final = 180.0
"""Longest time for Ray to be imported and joined; takes 1.3 s. Messages are silent meanwhile, and a
bridge that gave up early on a busy host would only begin again."""
IN_FLIGHT_MOST: Final = 256
"""Messages under way to one host. Chosen: many times what a head asks of a host at once."""
RELAY_CONCURRENCY: Final = 1000
"""Messages that a relay carries at once; more than all bridges together have under way."""

EXIT_NOT_JOINED: Final = 3
EXIT_RAY_GONE: Final = 4

RAY_ERRORS: Final = {
    "ActorUnavailableError": "its relay is being started again",
    "ActorDiedError": "its relay ended",
    "ActorUnschedulableError": "its node is gone",
    "TaskCancelledError": "its relay dropped the message",
}
"""Ray's errors by name, as a host's silence is explained; the rest in Ray's own words."""
RELAY_GONE: Final = ("ActorDiedError", "ActorUnschedulableError")

Result = TypeVar("Result")


def frame(body: bytes) -> bytes:
    """Return a frame: a length of four bytes, big-endian, and so many bytes."""
    return len(body).to_bytes(4, "big") + body


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Return the body of the next frame. Raises IncompleteReadError, ValueError."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > MOST_BYTES:
        raise ValueError(f"a frame of {size} bytes is too large")
    return await reader.readexactly(size)


class Relay:
    """Passes messages to the agent of its host. An actor of Ray; decides nothing."""

    async def send(self, host: str, seconds: float, body: bytes) -> tuple[str, bytes]:
        """Return why there is no answer, or "", and the answer.

        Args:
            host: the host's name, for the header.
            seconds: deadline of the answer.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._send(host, seconds, body)
        except TimeoutError:
            return "its agent did not answer in time", b""
        except (FileNotFoundError, ConnectionRefusedError):
            return "no agent runs there", b""
        except asyncio.IncompleteReadError:
            return "its agent ended during the message", b""
        except (OSError, ValueError, KeyError) as error:
            return str(error) or type(error).__name__, b""

    async def _send(self, host: str, seconds: float, body: bytes) -> tuple[str, bytes]:
        reader, writer = await asyncio.open_unix_connection(os.environ[SOCKET_VARIABLE])
        try:
            header = {"host": host, "seconds": seconds}
            writer.write(frame(json.dumps(header).encode()) + frame(body))
            await writer.drain()
            why = str(json.loads(await read_frame(reader)).get("silent") or "")
            return why, await read_frame(reader)
        finally:
            writer.close()


@dataclasses.dataclass(frozen=True)
class BridgeSettings:
    """What the bridge is started with.

    Attributes:
        address: of Ray's control service, host:port.
        node_address: of this host's node, which the bridge joins.
        socket: the Unix socket on which messages come.
    """

    address: str
    node_address: str
    socket: str


@dataclasses.dataclass(frozen=True)
class Node:
    """A living node of Ray that carries a host's name.

    Attributes:
        identity: of the host; two nodes with one identity are one host that restarted Ray.
        since: when its Ray was started, in seconds of its own clock.
    """

    node_id: str
    host: str
    address: str
    identity: str
    since: float


@dataclasses.dataclass(frozen=True)
class ToldMember:
    """A host, and why it cannot be reached, or ""."""

    host: str
    address: str
    problem: str = ""


class Unreachable(Exception):  # noqa: N818 - says the state of a host, as a value would
    """A host cannot be asked now; the text says why."""


def nodes_of(table: list[dict[str, Any]]) -> list[Node]:
    """Return the living nodes that carry a host's name, from `ray.nodes()`."""
    found = []
    for row in table:
        labels = row.get("Labels") or {}
        if row.get("Alive") and labels.get(HOST_LABEL):
            since = labels.get(SINCE_LABEL, "")
            found.append(
                Node(
                    str(row["NodeID"]), labels[HOST_LABEL], str(row["NodeManagerAddress"]),
                    labels.get(IDENTITY_LABEL, ""), float(since) if since.isdigit() else 0.0,
                )
            )  # fmt: skip
    return found


def choose_nodes(
    nodes: list[Node], known: dict[str, str]
) -> tuple[dict[str, Node], list[ToldMember]]:
    """Choose one node for each host name.

    Of two hosts with one name, the one that had the name before keeps it; if neither is known, the
    one that was started first. Of two nodes of one host, the later: the other is about to be
    counted as dead.

    Args:
        known: the identity that had each name so far. Changed.

    Returns:
        The node of each host, and all members, the refused ones too.
    """
    by_host: dict[str, dict[str, Node]] = {}
    for node in sorted(nodes, key=lambda one: one.since):
        by_host.setdefault(node.host, {})[node.identity] = node
    chosen, members = {}, []
    for host, hosts in sorted(by_host.items()):
        first = min(hosts.values(), key=lambda one: (one.identity != known.get(host), one.since))
        known[host] = first.identity
        chosen[host] = first
        others = ", ".join(sorted(o.address for o in hosts.values() if o is not first))
        members.append(ToldMember(host, first.address))
        if others:
            members.append(
                ToldMember(host, others, f"{first.address} has the name {host} already; "
                       "give this host another one ([host] name) and have it join again")
            )  # fmt: skip
    return chosen, members


class HostLink:
    """The way to one host's relay on one node."""

    def __init__(self, node: Node, control: "RayDirectory") -> None:
        self.node = node
        self._control = control
        self._relay: Any = None
        self._finding: asyncio.Future[Any] | None = None
        self.in_flight = 0

    async def send(self, until: float, body: bytes) -> bytes:
        """Return the answer to a message. Raises Unreachable."""
        if self.in_flight >= IN_FLIGHT_MOST:
            raise Unreachable(f"{IN_FLIGHT_MOST} messages wait for it")
        self.in_flight += 1
        try:
            await self._wait_for_relay(until)
            relay, seconds = self._relay, until - time.monotonic()
            answer: bytes
            why, answer = await self._asked(
                lambda: relay.send.remote(self.node.host, seconds, body), until + MARGIN_SECONDS
            )
        finally:
            self.in_flight -= 1
        if why:
            raise Unreachable(why)
        return answer

    async def _wait_for_relay(self, until: float) -> None:
        """Wait for the relay, for which one of all messages asks."""
        if self._relay is not None:
            return
        finding = self._finding
        if finding is None or finding.done():
            finding = asyncio.ensure_future(self._control.ask(lambda: _relay_on(self.node)))
            self._finding = finding
        done, _ = await asyncio.wait({finding}, timeout=until - time.monotonic())
        if not done:
            raise Unreachable("its relay does not answer yet")
        self._relay = finding.result()

    async def _asked(self, call: Callable[[], Any], until: float) -> Any:
        """Await the result of a call of the relay. Raises Unreachable."""
        reference = None
        try:
            reference = call()
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + until - time.monotonic()
            ):
                return await reference
        except TimeoutError:
            self._cancel(reference)
            raise Unreachable("its relay does not answer") from None
        except asyncio.CancelledError:
            self._cancel(reference)
            raise
        except Exception as error:
            why = RAY_ERRORS.get(type(error).__name__)
            if type(error).__name__ in RELAY_GONE:
                self._relay = None  # for good; the next message makes another
            raise Unreachable(why or f"Ray: {_first_line(error)}") from error

    def _cancel(self, reference: Any) -> None:
        """Have the relay drop a message that nobody waits for."""
        if reference is not None:
            import ray

            with contextlib.suppress(Exception):
                ray.cancel(reference)


def _relay_on(node: Node) -> Any:
    """Find or make the relay on a node. Blocks.

    Several bridges may ask at once: the name belongs to the node, so all get the same relay.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return (
        ray.remote(Relay)
        .options(
            name=f"relay-{RELAY_VERSION}-{node.node_id}",
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            num_gpus=0,
            max_concurrency=RELAY_CONCURRENCY,
            max_restarts=-1,
            max_task_retries=0,  # who sends a message knows whether it may be sent twice
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
        )
        .remote()
    )


def _node_table() -> list[dict[str, Any]]:
    """Return all nodes, the dead ones too. Blocks."""
    import ray

    found: list[dict[str, Any]] = ray.nodes()
    return found


class RayDirectory:
    """Asks Ray's control service (GCS) in a thread, for it may hang; one question at a time."""

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "control")

    async def ask(self, question: Callable[[], Result]) -> Result:
        """Return the answer. Raises Unreachable if Ray refuses."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, question)
        except Exception as error:
            raise Unreachable(f"Ray: {_first_line(error)}") from error


def tell(text: str) -> None:
    """Print a line that is ours, between those of Ray."""
    print(f"bridge: {text}", file=sys.stderr, flush=True)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


class Bridge:
    """Answers the messages that come on the socket."""

    def __init__(self, settings: BridgeSettings) -> None:
        self._settings = settings
        self._control = RayDirectory()
        self._known: dict[str, str] = {}
        self._links: dict[str, HostLink] = {}
        self._members: list[ToldMember] = []
        self._looked = asyncio.Event()
        self._versions = ""
        """Who can join, for those who look why a host did not."""

    async def join(self) -> None:
        """Join Ray, once its control service is there. Raises Unreachable, TimeoutError."""
        if not await self._control_listens():
            tell(f"waits for Ray's control service at {self._settings.address}")
            while not await self._control_listens():  # noqa: ASYNC110 - nobody tells us
                await asyncio.sleep(LOOK_SECONDS)
        async with asyncio.timeout(JOIN_SECONDS):
            await self._control.ask(self._join)

    async def _control_listens(self) -> bool:
        """False if the control service's address refuses connections: Ray itself would ask on, with
        a whole core for a minute. Whatever else is wrong is said best by Ray."""
        host, _, port = self._settings.address.rpartition(":")
        with contextlib.suppress(OSError, ValueError, OverflowError):
            try:
                async with asyncio.timeout(READ_SECONDS):
                    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
                writer.close()
            except ConnectionRefusedError:
                return False
        return True

    def _join(self) -> None:
        import ray

        ray.init(
            address=self._settings.address,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            include_dashboard=False,
            _node_ip_address=self._settings.node_address,
        )
        self._versions = f"; Ray {ray.__version__} alone can join"

    async def watch(self) -> None:
        """Look at the nodes again and again; return when Ray is gone."""
        while True:
            looking = asyncio.ensure_future(self._look())
            done, _ = await asyncio.wait({looking}, timeout=GONE_SECONDS)
            if not done or isinstance(looking.exception(), Unreachable):
                tell("Ray's control service does not answer")
                return
            looking.result()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        if not await self._control_listens():
            raise Unreachable("Ray: nobody listens at its control service's address")
        nodes = nodes_of(await self._control.ask(_node_table))
        chosen, members = choose_nodes(nodes, self._known)
        for host, node in chosen.items():
            link = self._links.get(host)
            if link is None or link.node.node_id != node.node_id:
                self._links[host] = HostLink(node, self._control)
        for host in set(self._links) - set(chosen):
            del self._links[host]
        self._members = members
        self._looked.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one message; stop if who asked goes away."""
        with (
            contextlib.closing(writer),
            contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError, KeyError),
        ):
            async with asyncio.timeout(READ_SECONDS):
                header = json.loads(await read_frame(reader))
                body = await read_frame(reader)
            until = time.monotonic() + float(header["seconds"])
            answering = asyncio.ensure_future(self._answer(header["host"], until, body))
            gone = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if not answering.done():
                answering.cancel()
                return
            try:
                writer.write(frame(b"{}") + frame(answering.result()))
            except Unreachable as error:
                writer.write(frame(json.dumps({"silent": str(error)}).encode()) + frame(b""))
            await writer.drain()

    async def _answer(self, host: str, until: float, body: bytes) -> bytes:
        if not self._looked.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until - time.monotonic()):
                    await self._looked.wait()
        if not self._looked.is_set():
            raise Unreachable("Ray has not been joined yet")
        if not host:
            return self._tell(json.loads(body))
        link = self._links.get(host)
        if link is None:
            raise Unreachable(
                "it is not in the cluster now (see `journalctl -u partitiond-ray` there"
                f"{self._versions})"
            )
        return await link.send(until, body)

    def _tell(self, question: dict[str, Any]) -> bytes:
        """Answer a question to the bridge itself."""
        if question.get("ask") != "members":
            raise Unreachable(f"the bridge knows no question {question.get('ask')!r}")
        return json.dumps({"members": [dataclasses.asdict(one) for one in self._members]}).encode()


async def _stdin_ends() -> None:
    """Return when whoever started this program is gone."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(4096):
        pass


async def _first(*works: Coroutine[Any, Any, Result]) -> Result:
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if not task.done():
            task.cancel()
    return next(task for task in tasks if task.done() and not task.cancelled()).result()


async def run(settings: BridgeSettings) -> int:
    """Answer messages until this program is to end; return its exit status."""
    bridge = Bridge(settings)
    path = Path(settings.socket)
    path.unlink(missing_ok=True)  # noqa: ASYNC240 - once, in a folder of ours
    # Not unlinked at the end: by then it may be the successor's.
    server = await asyncio.start_unix_server(bridge.serve, str(path), backlog=1024)
    path.chmod(0o600)  # noqa: ASYNC240

    async def parent() -> int:
        await _stdin_ends()
        return 0

    async def cluster() -> int:
        try:
            await bridge.join()
        except (Unreachable, TimeoutError) as error:
            why = str(error) or "it did not answer in time"
            tell(f"Ray at {settings.address} cannot be joined: {why}")
            return EXIT_NOT_JOINED
        await bridge.watch()
        return EXIT_RAY_GONE

    try:
        return await _first(parent(), cluster())
    finally:
        server.close()


async def _main() -> None:
    code = await run(BridgeSettings(**json.loads(sys.argv[1])))
    sys.stderr.flush()
    os._exit(code)  # Ray's own threads may hang: nothing waits for them


if __name__ == "__main__":
    os.umask(0o077)
    asyncio.run(_main())
