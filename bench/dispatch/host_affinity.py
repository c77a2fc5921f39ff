"""Compares ways in which a conversation finds its replica from any of several hosts.

    python -m bench.dispatch.host_affinity [--quick] [--seeds 3] [--seconds 20]

The hosts, their rules and the time are those of `bench.dispatch.hosts`; the memory of sessions and
prompts is the proxy's own. Clients hold conversations of six turns in the mean, some seconds apart.
Each turn comes to a host that is drawn anew ("any"), or all turns of a conversation come to the
same one ("same"). A prompt begins with one of eight instructions of four blocks, and grows by two
blocks with each turn. Conversations have a session ("session"), or are known by their prompts alone
("prefix").

Ways: no preference; what each host placed itself; that and what other hosts tell ("told", as the
proxy does); at every host the same replica by a hash of the session, or of the first block of the
prompt ("hashed").

Figures are means of seeds: later turns on the replica of the turn before; blocks of prompts that
their replica had read; hops per request; occupancy, most less least over all replicas; response
over that of one proxy that knows all; KB/s that a host sends to all others.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import math
import random
import statistics
import sys
from typing import Final

from bench.command import options
from bench.dispatch.host_cases import (
    HOP_SECONDS,
    HostRequest,
    HostsCase,
    SimulatedHost,
    SimulatedHosts,
)
from partitiond.core.dispatch.admission import Cost
from partitiond.core.dispatch.fleet import DEFAULT_HOST_POLICY
from partitiond.core.dispatch.host_affinity import HostAffinity, PlacedLately
from partitiond.core.dispatch.peer_loads import PeerLoads
from partitiond.core.dispatch.places import EVERYBODY

WARM_UP_SECONDS: Final = 15.0
LAST_SECONDS: Final = 20.0
MEAN_TURNS: Final = 6
THINK_SECONDS: Final = 3.0
INSTRUCTIONS: Final = 8
INSTRUCTION_BLOCKS: Final = 4
TURN_BLOCKS: Final = 2
SAMPLE_SECONDS: Final = 0.25


class TurnRequest(HostRequest):
    """One turn of a conversation.

    Attributes:
        session: digest of its session, or empty.
        blocks: digests of the beginning of its prompt.
        before: the turn before, or None.
        cached: how many blocks its replica had read.
    """

    __slots__ = ("before", "blocks", "cached", "session")

    def __init__(
        self,
        arrived: float,
        work: float,
        session: bytes,
        blocks: tuple[bytes, ...],
        before: "TurnRequest | None",
    ) -> None:
        super().__init__(arrived, work, Cost(1, 256), EVERYBODY)
        self.session = session
        self.blocks = blocks
        self.before = before
        self.cached = 0


class UnawareHost(SimulatedHost):
    """A host that prefers no replica.

    Attributes:
        told_bytes: sent to each other host.
        read: blocks that each replica of this host has read.
    """

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.told_bytes = 0
        self.read: dict[str, set[bytes]] = {one.replica_id: set() for one in self.replicas}

    def _started(self, request: HostRequest) -> None:
        super()._started(request)
        assert isinstance(request, TurnRequest)
        read = self.read[request.replica_id]
        request.cached = sum(block in read for block in request.blocks)
        read.update(request.blocks)


class KnowingHost(UnawareHost):
    """A host that knows what it has placed itself."""

    tells = False

    def __init__(self, *given: object) -> None:
        super().__init__(*given)
        self.known = HostAffinity()
        if self.tells:
            self.known.lately = PlacedLately()

    def arrive(self, request: HostRequest) -> None:
        """Take a request of a client, and set what it prefers."""
        assert isinstance(request, TurnRequest)
        request.prefer = self.preferred(request)
        super().arrive(request)

    def preferred(self, request: TurnRequest) -> tuple[str, ...]:
        """Return the replicas that the request prefers."""
        return self.known.prefer(request.session, request.blocks, self.clock.now, self.read)

    def send(self, request: HostRequest, peer: PeerLoads, replica_id: str) -> None:
        """Send the request to a peer, with what it prefers."""
        prefer = request.prefer
        super().send(request, peer, replica_id)
        request.prefer = tuple(dict.fromkeys((*request.prefer, *prefer)))

    def _started(self, request: HostRequest) -> None:
        super()._started(request)
        assert isinstance(request, TurnRequest)
        now, entry = self.clock.now, request.entry_host
        about = request.session, request.blocks, request.replica_id
        self.known.remember(*about, now, here=True)
        if entry is not self and isinstance(entry, KnowingHost):
            self.fleet.later(lambda: entry.known.remember(*about, now, here=False))


class TellingHost(KnowingHost):
    """A host that tells the others what it placed on its replicas."""

    tells = True

    def tell(self) -> None:
        """Tell the counts, and what was placed."""
        super().tell()
        assert self.known.lately is not None
        news = self.known.lately.take()
        if not news:
            return
        # The frame, and each replica's name and lengths.
        self.told_bytes += 20 + sum(30 + len(one) + len(two) for one, two in news.values())
        for host in self.fleet.hosts.values():
            if host is not self and isinstance(host, TellingHost):
                late = HOP_SECONDS + self.fleet.random.random() * self.fleet.late_seconds
                self.clock.at(self.clock.now + late, functools.partial(host.hear, news))

    def hear(self, news: dict[str, tuple[bytes, bytes]]) -> None:
        """Take over what another host told."""
        for name, (sessions, blocks) in news.items():
            self.known.told(name, sessions, blocks, self.clock.now)


class HashingHost(KnowingHost):
    """A host that finds the replica by a hash, as all others do (rendezvous hashing)."""

    def preferred(self, request: TurnRequest) -> tuple[str, ...]:
        """Return the replicas that the request prefers."""
        name = request.session or request.blocks[0]
        everyone = [one.replica_id for host in self.fleet.hosts.values() for one in host.replicas]
        return (max(everyone, key=lambda one: hashlib.blake2b(name + one.encode()).digest()),)


WAYS: Final[dict[str, type[SimulatedHost]]] = {
    "none": UnawareHost,
    "own": KnowingHost,
    "told": TellingHost,
    "hashed": HashingHost,
}


@dataclasses.dataclass(frozen=True)
class AffinityJob:
    """One run.

    Attributes:
        way: how a replica is found.
        known_by: "session" or "prefix".
        comes_to: "any" host, or the "same".
        together: one proxy knows all.
    """

    case: HostsCase
    way: str
    known_by: str
    comes_to: str
    together: bool = False
    seed: int = 1
    seconds: float = 20.0


@dataclasses.dataclass(frozen=True)
class AffinityFigures:
    """Figures of one run; see the module."""

    same: float
    cached: float
    hops: float
    spread: float
    response: float
    kb_per_second: float


def run(job: AffinityJob) -> AffinityFigures:
    """Simulate one run."""
    fleet = SimulatedHosts(
        job.case, DEFAULT_HOST_POLICY, job.seed, together=job.together, host_class=WAYS[job.way]
    )
    end = WARM_UP_SECONDS + job.seconds
    requests = _conversations(job, fleet, end)
    spreads: list[float] = []
    replicas = [one for host in fleet.hosts.values() for one in host.replicas]

    def sample() -> None:
        shares = [one.sequences / one.max_sequences for one in replicas]
        spreads.append(max(shares) - min(shares))

    for step in range(int(job.seconds / SAMPLE_SECONDS)):
        fleet.clock.at(WARM_UP_SECONDS + step * SAMPLE_SECONDS, sample)
    fleet.clock.run(end + LAST_SECONDS)
    window = [one for one in requests if one.arrived >= WARM_UP_SECONDS and one.ended < math.inf]
    later = [one for one in window if one.before is not None and one.before.replica_id]
    told = sum(host.told_bytes for host in fleet.hosts.values() if isinstance(host, UnawareHost))
    per_host = told / max(1, job.case.serving) / (end + LAST_SECONDS)
    return AffinityFigures(
        statistics.fmean(one.before is not None and one.replica_id == one.before.replica_id
                         for one in later),
        sum(one.cached for one in window) / sum(len(one.blocks) for one in window),
        statistics.fmean(one.hops for one in window),
        statistics.fmean(spreads),
        statistics.fmean(one.ended - one.arrived for one in window),
        per_host * (job.case.hosts - 1) / 1e3,
    )  # fmt: skip


def _conversations(job: AffinityJob, fleet: SimulatedHosts, end: float) -> list[TurnRequest]:
    """Plan the arrivals of all turns; the same ones for each way."""
    draws = random.Random(job.seed)
    requests: list[TurnRequest] = []
    hosts = list(fleet.hosts.values())
    begun = 0.0
    rate = job.case.load * fleet.capacity / MEAN_TURNS
    number = 0
    while (begun := begun + draws.expovariate(rate)) <= end:
        number += 1
        when, before = begun, None
        instruction = draws.randrange(INSTRUCTIONS)
        home = draws.random()
        turns = 1 + int(draws.expovariate(1 / (MEAN_TURNS - 0.5)))
        for turn in range(turns):
            host = hosts[int((home if job.comes_to == "same" else draws.random()) * len(hosts))]
            blocks = tuple(
                _digest(instruction, block) for block in range(INSTRUCTION_BLOCKS)
            ) + tuple(
                _digest(INSTRUCTIONS + number, block) for block in range(TURN_BLOCKS * (turn + 1))
            )
            session = _digest(number, 0) if job.known_by == "session" else b""
            turn_request = TurnRequest(when, draws.expovariate(1.0), session, blocks, before)
            if when > end:
                break
            requests.append(turn_request)
            fleet.clock.at(when, functools.partial(host.arrive, turn_request))
            before = turn_request
            # A client waits for its answer first; it rarely takes longer than this.
            when += THINK_SECONDS + draws.expovariate(1 / THINK_SECONDS)
    return requests


def _digest(one: int, two: int) -> bytes:
    return one.to_bytes(8, "big") + two.to_bytes(4, "big")


def _mean(runs: list[AffinityFigures]) -> AffinityFigures:
    return AffinityFigures(
        **{
            field.name: statistics.fmean(getattr(one, field.name) for one in runs)
            for field in dataclasses.fields(AffinityFigures)
        }
    )


def main() -> int:
    """Run all cases, and print their lines."""
    parser = options(__doc__, quick=False, seeds=3, seconds=20.0, jobs=1)
    given = parser.parse_args()
    cases = [HostsCase(8, load=0.7), HostsCase(8, load=0.9), HostsCase(32, load=0.7)]
    kinds = list(itertools.product(("session", "prefix"), ("any", "same")))
    print("same replica, blocks read, hops, spread of occupancy, response over one proxy's, KB/s")
    with concurrent.futures.ProcessPoolExecutor(given.jobs) as pool:
        for case, (known_by, comes_to) in itertools.product(
            cases[: 1 if given.quick else None], kinds
        ):
            one = AffinityJob(case, "own", known_by, comes_to, together=True, seconds=given.seconds)
            jobs = {"one proxy": one} | {
                way: dataclasses.replace(one, way=way, together=False) for way in WAYS
            }
            seeds = range(1, given.seeds + 1)
            runs = [dataclasses.replace(job, seed=seed) for job in jobs.values() for seed in seeds]
            found = pool.map(run, runs)
            figures = {way: _mean([next(found) for _ in seeds]) for way in jobs}
            print(f"{case.hosts} hosts, load {case.load}, by {known_by}, at {comes_to} host")
            for way, f in figures.items():
                response = f.response / figures["one proxy"].response
                print(
                    f"  {way:<9} {f.same:4.0%} {f.cached:4.0%}  hops {f.hops:.2f}  spread "
                    f"{f.spread:.2f}  response x{response:.3f}  {f.kb_per_second:6.1f} KB/s",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
