"""Simulates the proxy for one model of a fleet: its queue in front of its replicas.

`core.dispatch.dispatcher` makes every decision, as it does for the proxy's live side
(`proxy.dispatch.live.LiveModel`); a deadline is an event here and a timer there. Requests do not
fail in a simulation, clients do not leave, and replicas neither come nor go: there are no retries,
no ejections and no drains.
"""

import functools
import random
from typing import Final

from partitiond.core.dispatch.admission import Cost, Rejected, Waiting, service_time
from partitiond.core.dispatch.dispatcher import Dispatcher
from partitiond.core.dispatch.estimates import FiguresOfKeys, estimate
from partitiond.core.dispatch.routing import ModelRoute
from partitiond.simulated.fleet.engine import FleetRequest
from partitiond.simulated.fleet.events import EventTarget, SimulatedClock
from partitiond.simulated.fleet.places import FleetPlaces, FleetReplica

BYTES_PER_TOKEN: Final = 4
"""Bytes per prompt token, as in English text; the proxy learns it from the usage engines report."""


class FinishedRequest:
    """Receives each request that ended or was refused."""

    def answered(self, request: FleetRequest) -> None:
        """Record that a request got its last token."""
        raise NotImplementedError

    def refused(self, request: FleetRequest, rejected: Rejected) -> None:
        """Record that a request was refused."""
        raise NotImplementedError


class FleetModel:
    """One model: its replicas, its queue and the estimates learned from its requests.

    Attributes:
        dispatcher: makes the decisions.
        arrived: requests so far.
    """

    def __init__(
        self, clock: SimulatedClock, route: ModelRoute, finished: FinishedRequest, seed: int = 0
    ) -> None:
        self.arrived = 0
        self._max_model_len = 0
        self._finished = finished
        draws = random.Random(seed)  # noqa: S311 -- balance, no secret
        self._places = FleetPlaces(draws.random)
        self.clock = clock
        self.dispatcher = Dispatcher(route, self._places)
        self._figures = FiguresOfKeys()

    @property
    def in_flight(self) -> int:
        """Sequences in all replicas."""
        return self._places.sequences_in_flight()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self.dispatcher.queue)

    # -- replicas ----------------------------------------------------------------------------

    def add(self, replica: FleetReplica) -> None:
        """Add a replica, which serves from now on."""
        if not self._places.loads():
            self.dispatcher.service = service_time(replica.route.service_seconds)
        self._places.replicas.append(replica)
        self._max_model_len = max(self._max_model_len, replica.route.max_model_len)
        self.dispatcher.changed(self.clock.now)
        self._go_on()

    # -- requests ----------------------------------------------------------------------------

    def arrive(self, prompt_tokens: int, output_tokens: int) -> None:
        """Estimate the cost of an arrived request, and place the request.

        Clients are assumed to ask for as many tokens as they get, as the load generator does.
        """
        self.arrived += 1
        cost = self._cost(prompt_tokens, output_tokens)
        self.place(FleetRequest(self.clock.now, prompt_tokens, output_tokens, cost))

    def place(self, request: FleetRequest) -> None:
        """Start, queue or refuse a request."""
        outcome = self.dispatcher.arrives(request, self.clock.now)
        self._carry_out(request, outcome)
        if isinstance(outcome, Waiting):
            self._go_on()

    def _cost(self, prompt_tokens: int, output_tokens: int) -> Cost:
        return estimate(
            self._figures.of(""),
            sequences=1,
            prompt_bytes=prompt_tokens * BYTES_PER_TOKEN,
            max_tokens=output_tokens,
            max_model_len=self._max_model_len,
        )

    def expire(self, entry: Waiting[FleetRequest]) -> None:
        """Handle the deadline of a waiting request."""
        if self.dispatcher.expires(entry, self.clock.now):
            self._go_on()

    def _go_on(self) -> None:
        """Carry out all decisions that are possible now."""
        now = self.clock.now
        while (decided := self.dispatcher.next_decision(now)) is not None:
            self._carry_out(*decided)

    def _carry_out(
        self, request: FleetRequest, outcome: FleetReplica | Rejected | Waiting[FleetRequest]
    ) -> None:
        if isinstance(outcome, Waiting):
            self.clock.plan(outcome.deadline, _Expiry(self, outcome))
        elif isinstance(outcome, Rejected):
            self._finished.refused(request, outcome)
        else:
            self._start(request, outcome)

    def _start(self, request: FleetRequest, replica: FleetReplica) -> None:
        request.placed = self.clock.now
        if replica.engine is not None:
            replica.engine.add(request)

    def ended(self, request: FleetRequest, replica: FleetReplica) -> None:
        """Free the request's place; then correct the estimates by what its engine reported."""
        now = self.clock.now
        request.ended = now
        dispatcher = self.dispatcher
        self._places.free(replica, request)
        if not dispatcher.is_idle:
            self._go_on()
        prompt_tokens, output_tokens = request.prompt_tokens, request.output_tokens
        dispatcher.settle(request, prompt_tokens + output_tokens)
        prompt = prompt_tokens * BYTES_PER_TOKEN, prompt_tokens
        self._figures.learn("", prompt=prompt, output_tokens=output_tokens)
        stayed = now - request.placed
        dispatcher.learn(stayed)
        self._finished.answered(request)


class _Expiry(EventTarget):
    """The deadline of a waiting request, which is refused if it still waits then."""

    def __init__(self, model: FleetModel, entry: Waiting[FleetRequest]) -> None:
        self._expire = functools.partial(model.expire, entry)

    def due(self, number: int) -> None:
        """Refuse the request if it still waits."""
        del number
        self._expire()
