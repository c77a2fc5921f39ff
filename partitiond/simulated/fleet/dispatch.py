"""Simulates the proxy for one model of a fleet: as `simulated.replay.dispatch`, with many replicas.

`core.dispatch.dispatcher` makes every decision; `fleet.places` finds a replica among thousands.
"""

import random
from collections.abc import Callable

from partitiond.core.dispatch.admission import (
    Rejected,
    ServiceTime,
)
from partitiond.core.dispatch.dispatcher import Dispatcher
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute
from partitiond.simulated.fleet.engine import FleetRequest
from partitiond.simulated.fleet.places import FleetPlaces, FleetReplica, Place
from partitiond.simulated.replay.dispatch import QueuedModel
from partitiond.simulated.replay.events import SimulatedClock


class FinishedRequest:
    """Receives each request that ended or was refused."""

    def answered(self, request: FleetRequest) -> None:
        """Record that a request got its last token."""
        raise NotImplementedError

    def refused(self, request: FleetRequest, rejected: Rejected) -> None:
        """Record that a request was refused."""
        raise NotImplementedError


class FleetModel(QueuedModel[FleetRequest, Place]):
    """One model: its replicas, its queue and the estimates learned from its requests.

    Attributes:
        on_woken: called when a request arrives while the model sleeps.
    """

    def __init__(
        self, clock: SimulatedClock, route: ModelRoute, finished: FinishedRequest, seed: int = 0
    ) -> None:
        self.arrived = 0
        self.on_woken: Callable[[], None] = _nothing
        self._finished = finished
        draws = random.Random(seed)  # noqa: S311 -- balance, no secret
        self._places = FleetPlaces(draws.random)
        super().__init__(clock, Dispatcher(route, self._places))

    @property
    def route(self) -> ModelRoute:
        """The model's route, as in the proxy; may be replaced."""
        return self.dispatcher.route

    @route.setter
    def route(self, route: ModelRoute) -> None:
        self.dispatcher.changed(self.clock.now, route=route)
        self._go_on()

    @property
    def replicas(self) -> list[FleetReplica]:
        """Replicas that may get requests, in order; changed by `add`, `drain` and `lose`."""
        return self._places.replicas

    @property
    def in_flight(self) -> int:
        """Sequences in all replicas, draining ones included."""
        return self._places.in_flight

    @property
    def service_seconds(self) -> float:
        """Learned mean time of a sequence in an engine."""
        return self.dispatcher.service.seconds

    # -- replicas ----------------------------------------------------------------------------

    def add(self, replica: FleetReplica) -> None:
        """Add a replica, which serves from now on."""
        if not self._places.loads():
            self.dispatcher.service = ServiceTime(replica.route.service_seconds)
        self._places.enter(replica)
        self._changed()

    def drain(self, replica: FleetReplica) -> None:
        """Stop sending new requests to a replica."""
        self._places.drain(replica)
        self._changed()

    def lose(self, replica: FleetReplica) -> tuple[FleetRequest, ...]:
        """Remove a replica whose engine is gone; return the requests that were in it."""
        engine = replica.engine
        lost = () if engine is None else engine.requests
        if engine is not None:
            engine.halt()
        self._places.lose(replica)
        self.dispatcher.slowness.forget(replica.replica_id)
        self._changed()
        return lost

    def _changed(self) -> None:
        self.dispatcher.changed(self.clock.now)
        self._go_on()

    # -- requests ----------------------------------------------------------------------------

    def arrive(self, prompt_tokens: int, output_tokens: int) -> None:
        """Estimate the cost of an arrived request, and place the request.

        Clients are assumed to ask for as many tokens as they get, as the load generator does.
        """
        self.arrived += 1
        self.learned.max_model_len = self._places.max_model_len
        cost = self.learned.cost("", prompt_tokens, output_tokens)
        self.place(FleetRequest(self.clock.now, prompt_tokens, output_tokens, cost))

    def place(self, request: FleetRequest) -> None:
        """Start, queue or refuse a request."""
        if not self._places.replicas:
            self._wake()
        super().place(request)

    def _wake(self) -> None:
        route = self.dispatcher.route
        if route.availability is ModelAvailability.SLEEPING and route.holds:
            self.on_woken()

    def _start(self, request: FleetRequest, load: Place) -> None:
        assert isinstance(load, FleetReplica)  # a full replica takes nothing
        request.placed = self.clock.now
        if load.engine is not None:
            load.engine.add(request)

    def _refuse(self, request: FleetRequest, rejected: Rejected) -> None:
        self._finished.refused(request, rejected)

    def ended(self, request: FleetRequest, replica: FleetReplica) -> None:
        """Free the request's place; then correct the estimates by what its engine reported."""
        now = self.clock.now
        request.ended = now
        dispatcher = self.dispatcher
        self._places.count(replica, -request.takes.sequences, -request.takes.kv_tokens)
        if not dispatcher.is_idle:
            self._go_on()
        prompt_tokens, output_tokens = request.prompt_tokens, request.output_tokens
        dispatcher.settle(request, prompt_tokens + output_tokens)
        self.learned.observe("", prompt_tokens, output_tokens)
        planned, stayed = replica.route.service_seconds, now - request.placed
        dispatcher.learn(replica.replica_id, stayed, output_tokens, planned, now)
        self._finished.answered(request)


def _nothing() -> None:
    """Do nothing, until `on_woken` is set."""
