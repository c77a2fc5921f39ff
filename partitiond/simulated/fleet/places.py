"""Defines one model's replicas as the dispatcher of a simulated fleet sees them."""

from collections.abc import Callable

from partitiond.core.dispatch.places import Places
from partitiond.core.dispatch.routing import ReplicaRoute
from partitiond.simulated.fleet.engine import FleetEngine, FleetRequest, TokenListener
from partitiond.simulated.fleet.events import SimulatedClock


class FleetReplica(TokenListener):
    """A replica as the dispatcher sees it (with the fields of `balance.Load`), and its engine."""

    draining = False
    ejected = False
    doubt = 0

    def __init__(
        self,
        route: ReplicaRoute,
        clock: SimulatedClock,
        ended: Callable[[FleetRequest, "FleetReplica"], None],
    ) -> None:
        """
        Args:
            ended: called after the last token of a request on this replica.
        """
        self.route = route
        self.replica_id = route.replica_id
        self.max_sequences = self.batch = route.max_sequences
        self.kv_cache_tokens = route.kv_cache_tokens
        self.sequences = 0
        self.kv_tokens = 0
        self._clock, self._ended = clock, ended
        self.engine: FleetEngine | None = None

    def first_token(self, request: FleetRequest) -> None:
        """Record the time of the first token."""
        request.first = self._clock.now

    def last_token(self, request: FleetRequest) -> None:
        """Free the place of the request."""
        self._ended(request, self)


class FleetPlaces(Places[FleetRequest, FleetReplica]):
    """The replicas of one model, which only its own dispatcher uses.

    Attributes:
        replicas: all of them, in order.
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self.replicas: list[FleetReplica] = []
        super().__init__(self.replicas, draw)

    def add(self, load: FleetReplica, request: FleetRequest) -> None:
        """Count the request as running on this replica."""
        load.sequences += request.takes.sequences
        load.kv_tokens += request.takes.kv_tokens

    def free(self, load: FleetReplica, request: FleetRequest) -> None:
        """Count the request as ended."""
        load.sequences -= request.takes.sequences
        load.kv_tokens -= request.takes.kv_tokens
