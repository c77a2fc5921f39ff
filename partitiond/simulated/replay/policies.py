"""Implements other dispatch policies for comparison: round robin and least connections.

Like load balancers, the policies forward a request at once, and requests that an engine cannot run
wait in its own queue, first come, first served, without bound. With a limit the policies hold
requests back as our dispatch does (the same admission rule and estimates, one bounded queue, the
same deadlines). Thus a comparison separates the choice of the replica from admission.
"""

import collections
import enum
from collections.abc import Callable, Sequence

from partitiond.core.dispatch.admission import (
    QueueLimits,
    admits,
    refuse_after_waiting,
    refuse_to_wait,
)
from partitiond.core.dispatch.routing import ModelRoute
from partitiond.simulated.replay.dispatch import (
    Learned,
    SimulatedReplica,
    SimulatedRequest,
    first_guess,
    ignore,
    listen,
    longest_context,
)
from partitiond.simulated.replay.events import SimulatedClock


class PolicyChoice(enum.StrEnum):
    """Rule that chooses the replica."""

    ROUND_ROBIN = "round robin"
    LEAST_CONNECTIONS = "least connections"


class BaselineModel:
    """One model behind a plain load balancer. Has the interface of `SimulatedModel` for traffic.

    Attributes:
        on_done: called with every request that ended or was refused.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        route: ModelRoute,
        replicas: Sequence[SimulatedReplica],
        choice: PolicyChoice,
        *,
        limited: bool,
    ) -> None:
        """
        Args:
            clock: clock of the simulation.
            route: bounds of the queue, if it is limited.
            replicas: replicas with their engines.
            choice: rule that chooses the replica.
            limited: whether requests are held back by the replicas' limits.
        """
        self.route = route
        self.replicas = tuple(replicas)
        self.on_done: Callable[[SimulatedRequest], None] = ignore
        self._clock = clock
        self._choice = choice
        self._limited = limited
        self._turn = 0
        self._queue: collections.OrderedDict[SimulatedRequest, float] = collections.OrderedDict()
        self._learned = Learned()
        self._learned.max_model_len = longest_context(self.replicas)
        self._service = first_guess(self.replicas)
        listen(clock, self.replicas, self._ended)

    def arrive(self, flight: SimulatedRequest) -> None:
        """Start, queue or refuse an arrived request."""
        flight.cost = flight.takes = self._learned.cost(
            flight.share.key, flight.prompt_tokens, flight.max_tokens
        )
        if not self._queue and self._start(flight):
            return
        refused = refuse_to_wait(len(self._queue), len(self._queue), self._limits())
        if refused is not None:
            flight.rejected = refused
            self.on_done(flight)
            return
        now = self._clock.now
        self._queue[flight] = now
        self._clock.at(now + self.route.max_wait_seconds, lambda: self._expire(flight))

    def _start(self, flight: SimulatedRequest) -> bool:
        room = [r for r in self.replicas if not self._limited or admits(r, flight.cost)]
        if not room:
            return False
        if self._choice is PolicyChoice.LEAST_CONNECTIONS:
            # Break ties in turn, as nginx and haproxy do.
            self._turn += 1
            order = [*self.replicas[self._turn % len(self.replicas) :], *self.replicas]
            chosen = min((r for r in order if r in room), key=lambda r: r.sequences)
        else:
            while True:
                self._turn += 1
                chosen = self.replicas[self._turn % len(self.replicas)]
                if chosen in room:
                    break
        chosen.start(flight, self._clock.now)
        return True

    def _ended(self, flight: SimulatedRequest, _replica: SimulatedReplica) -> None:
        self._learned.observe(flight.share.key, flight.prompt_tokens, flight.output_tokens)
        if flight.placed is not None and flight.ended is not None:
            self._service = self._service.observe(flight.ended - flight.placed)
        while self._queue and self._start(next(iter(self._queue))):
            self._queue.popitem(last=False)
        self.on_done(flight)

    def _expire(self, flight: SimulatedRequest) -> None:
        since = self._queue.pop(flight, None)
        if since is not None:
            waited = self._clock.now - since
            flight.rejected = refuse_after_waiting(waited, len(self._queue), self._limits())
            self.on_done(flight)

    def _limits(self) -> QueueLimits:
        return QueueLimits(
            self.route.max_queue,
            self.route.max_wait_seconds,
            sum(replica.sequences for replica in self.replicas),
            self._service.seconds,
        )
