"""Runs the stand that clients are tried against: a proxy before engines, with keys required."""

import asyncio
import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from partitiond.core.dispatch.routing import (
    KeyRoute,
    ModelAvailability,
    ModelRoute,
    ReplicaRoute,
    RoutingTable,
)
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.proxy.supervisor import ProxyProcess
from tests.e2e.conformance_engines import MAX_MODEL_LEN, proxy_for, real_generating, simulated
from tests.proxy.conftest import replica

KEY = "sk-of-the-clients-tests"
MODEL = "smollm2-135m"
"""Named as in the docs, so that their recipes run as they are."""
NARROW = "narrow"
"""One request at a time, and nobody may wait: a second one gets 429."""
EMBEDDER = "embedder"
ALIAS = "gpt-4o-mini"
LONG_MODEL_LEN = 65_536
FLAGS = ("--token-seconds", "0.005", "--max-model-len", str(LONG_MODEL_LEN))


@dataclasses.dataclass
class Stand:
    """The proxy, where clients reach it.

    Attributes:
        url: without `/v1`.
    """

    url: str
    proxy: ProxyProcess

    @property
    def environment(self) -> dict[str, str]:
        """What the scripts of the clients read."""
        names = {"MODEL": MODEL, "NARROW": NARROW, "EMBEDDER": EMBEDDER, "ALIAS": ALIAS}
        return {"BASE_URL": f"{self.url}/v1", "API_KEY": KEY, **names}

    def in_flight(self) -> int:
        return sum((asyncio.run(self.proxy.in_flight()) or {}).values())


@contextlib.contextmanager
def simulated_stand() -> Iterator[Stand]:
    """Two replicas of one model, a narrow one, and one for embeddings."""
    named = ((MODEL, 0), (MODEL, 1), (NARROW, 0), (EMBEDDER, 0))
    replicas = []
    with contextlib.ExitStack() as stack:
        for model, number in named:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pd-")))
            task = ("--runner", "pooling") if model == EMBEDDER else ()
            engine = stack.enter_context(simulated(folder, model, *FLAGS, *task))
            replicas.append(_replica(engine, model, number, LONG_MODEL_LEN))
        yield stack.enter_context(_before(*replicas))


@contextlib.contextmanager
def real_stand(environment: EngineEnvironment, model_folder: Path) -> Iterator[Stand]:
    """One replica of the real engine."""
    with real_generating(environment, model_folder, MODEL) as engine:
        with _before(_replica(engine, MODEL, 0, MAX_MODEL_LEN)) as found:
            yield found


@contextlib.contextmanager
def _before(*replicas: ReplicaRoute) -> Iterator[Stand]:
    with proxy_for(table_of(replicas)) as proxy:
        yield Stand(proxy.base_url, proxy)


def table_of(replicas: tuple[ReplicaRoute, ...]) -> RoutingTable:
    """Routes to these replicas, for one key."""
    serving = ModelAvailability.SERVING
    models = (
        ModelRoute(MODEL, serving, served_name=MODEL, created_at=1_700_000_000, aliases=(ALIAS,)),
        ModelRoute(NARROW, serving, served_name=NARROW, created_at=1_700_000_000, max_queue=0),
        ModelRoute(EMBEDDER, serving, served_name=EMBEDDER, created_at=1_700_000_000),
    )
    named = {replica.model for replica in replicas}
    key = KeyRoute("key-1", hashlib.sha256(KEY.encode()).hexdigest())
    kept = tuple(model for model in models if model.name in named)
    return RoutingTable(1, kept, replicas, (key,), keys_required=True)


def _replica(engine: Path, model: str, number: int, longest: int) -> ReplicaRoute:
    sequences = 1 if model == NARROW else 16
    name = f"{model}-{number}"
    return replica(engine, name, model, max_sequences=sequences, max_model_len=longest)
