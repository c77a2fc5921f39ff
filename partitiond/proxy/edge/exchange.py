"""Handles one request of a client, from its head to its record.

    reading -> (refusing) -> over
    reading -> waiting -> running -> over

`incoming` reads it, this module admits and charges it, `serving` answers it.
"""

import math
import time
from collections.abc import Callable
from typing import Final

from partitiond.core.dispatch.admission import Cost, Rejected, refuse_not_reached
from partitiond.core.dispatch.fleet import OWN_HOST
from partitiond.core.dispatch.peer_loads import PeerLoads
from partitiond.core.dispatch.routing import RouteKind
from partitiond.proxy.dispatch.flights import HOP_SECONDS, Flight, FlightTarget
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.replicas import LiveReplica
from partitiond.proxy.edge.heads import RequestHead
from partitiond.proxy.edge.incoming import Incoming, RequestClient
from partitiond.proxy.edge.known_heads import KnownHead
from partitiond.proxy.edge.serving import QUARANTINED, Phase
from partitiond.proxy.keys.accounts import Receipt
from partitiond.proxy.peers.known import NOWHERE, Hop, Peers, Wait
from partitiond.proxy.peers.messages import MOST, Failed, Open
from partitiond.proxy.peers.stream import LOST, SILENT, UNREACHED, PeerReplica, PeerStream
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import LIMITED, SERVER, ApiError, from_failure, from_rejected
from partitiond.proxy.request.parts import ParsedRequest
from partitiond.proxy.request.requests import (
    DataRoute,
    check_limits,
    engine_body,
    parse_request,
    with_defaults,
)
from partitiond.proxy.telemetry.tracing import Trace

__all__ = ["Exchange", "Phase"]

ON_TRIAL: Final = "request_on_trial"


class Exchange(Incoming):
    """One request of a client (see the module)."""

    def __init__(
        self, client: RequestClient, route: DataRoute, head: RequestHead, *, keep_alive: bool,
        chunked: bool, known: KnownHead | None = None,
    ) -> None:  # fmt: skip
        super().__init__(client, route, head, keep_alive=keep_alive, chunked=chunked, known=known)
        self._receipt: Receipt | None = None
        self._trace: Trace | None = None
        self._wait: Wait | None = None
        self._hop: Hop | None = None
        self._again = False

    def load_line(self) -> bytes:
        """Return the header that asks for the engine's load, if the client asks and may see it."""
        return b"" if self._state.options.debug_headers == "never" else self.head.load_line()

    # Bugs of ours

    def apologise(self) -> None:
        """End the request with an error after a bug of ours, if it has not ended."""
        if self.phase is Phase.OVER or self not in self._state.flights:
            self._give_receipt_back()
        super().apologise()

    def ways_out(self) -> list[Callable[[], object]]:
        """Return the clean-up actions, each independent of the others."""
        return [*super().ways_out(), self._give_receipt_back]

    def _give_receipt_back(self) -> None:
        """Settle with zero use (it is unknown), lest the key keep it in flight for ever."""
        receipt, self._receipt = self._receipt, None
        if receipt is not None:
            self._state.accounts.settle(receipt, 0.0)

    # Admission

    def start(self) -> None:
        """Parse the complete request, admit it, and find it a replica."""
        read = self._read()
        if isinstance(read, ApiError):
            self._refuse(read)
            return
        request, model = self.request, self.model = read
        cost = model.estimate(request, self._caller.key_id)
        admitted = self._state.accounts.admit(
            self._caller.key_id, cost.tokens, model.slots.service.seconds
        )
        if isinstance(admitted, Rejected):
            self._refuse(from_rejected(admitted))
            return
        self._receipt = admitted
        self._take_off(cost)

    def _take_off(self, cost: Cost) -> None:
        """Find a replica for the request, which is in flight from now on."""
        state, caller, request, model = self._state, self._caller, self.request, self.model
        now = time.monotonic()
        record = self.record
        record.model, record.stream, record.started_at = model.route.name, request.stream, now
        if state.tracer is not None:
            trace = self._trace = state.tracer.begin(self.head.traceparent)
            record.trace_id, self.traced = trace.trace_id, trace.header
        self._deadline = now + state.options.total_timeout_seconds
        longest = self.head.max_wait_seconds()
        flight = self.flight = Flight(
            self, record.request_id, cost, now, math.inf if longest is None else longest
        )
        flight.share = caller.share
        flight.stream = request.stream
        # The client may not yet have read the answer to its previous request.
        self.paused = self.client.write_paused
        if self.route.kind is RouteKind.GENERATE and (
            len(model.replicas) + state.peers.replicas(model) > 1
        ):
            session = self.head.session.decode("latin-1") or request.user
            model.attraction.attract(flight, session, self.body, now, model.replicas)
        state.took_off(self)
        model.retries.count_request()
        if cost.sequences:
            state.metrics.model(record.model).demand.arrived += 1
        if not self.is_quarantined(now):
            self.place(again=False)

    def _read(self) -> tuple[ParsedRequest, LiveModel] | ApiError:
        """Return the request and its model; set the body to the version for the engine."""
        state = self._state
        request = parse_request(self.body, self.route.measure, state.options)
        if isinstance(request, ApiError):
            return request
        model = state.find_model(request.model)
        if model is None or not self._caller.may_use(model.route.name):
            return errors.unknown_model(request.model)
        if model.route.defaults_json and self.route.kind is RouteKind.GENERATE:
            named = request.size.own_limit and request.size.max_tokens is not None
            self.body = with_defaults(self.body, model.route.defaults_json)
            request = parse_request(self.body, self.route.measure, state.options)
            if isinstance(request, ApiError):
                return request
            request.size.own_limit = named
        refusal = self._prepare(request, model)
        return (request, model) if refusal is None else refusal

    def _prepare(self, request: ParsedRequest, model: LiveModel) -> ApiError | None:
        """Check the request against the limits of its model and key; build the engine's body."""
        if request.stream and not self.route.streams:
            return errors.invalid("This route has no streams.", "stream")
        most = 0
        for limits in (model.limits, self._caller.limits):
            if limits is None:
                continue
            refusal = check_limits(request, limits)
            if refusal is not None:
                return refusal
            asked = limits.max_output_tokens
            most = min(most, asked) if most and asked else most or asked
        body = engine_body(self.body, request, model.route, self.route, most)
        if isinstance(body, ApiError):
            return body
        self.body = body
        return None

    # Other hosts

    def place(self, *, again: bool) -> None:
        """Find a replica, here or at another host, or wait for one, or end with a refusal."""
        peers = self._state.peers
        if not peers:
            super().place(again=again)
            return
        self.phase = Phase.WAITING
        wait = self._wait
        if wait is None:
            first = self.model.slots.places.first_token_seconds(self.flight)
            longest = self.model.route.longest_wait_seconds(first)
            longest = min(longest, self.flight.max_wait_seconds)
            wait = self._wait = Wait(self, longest)
        if not wait.latest:
            wait.latest = time.monotonic() + wait.longest
        self._again = again
        choice = peers.choose(wait)
        if choice is None:
            self._place_without_peers(peers, wait, again=again)
        elif choice.peer is None:
            self._place_here(peers, wait, again=again)
        else:
            self._send(peers, wait, choice.peer, choice.replica_id)

    def _place_here(self, peers: Peers, wait: Wait, *, again: bool) -> None:
        self.flight.max_wait_seconds = max(0.0, wait.latest - time.monotonic())
        super().place(again=again)
        if self.phase is Phase.WAITING:
            peers.waits(wait, OWN_HOST)

    def _place_without_peers(self, peers: Peers, wait: Wait, *, again: bool) -> None:
        if wait.told is not None:
            self._give_up(wait.told)
        elif peers.may_learn(wait):
            peers.waits(wait, NOWHERE)
        elif self.model.route.elsewhere:
            self.refused(refuse_not_reached(self.model.route.name))
        else:
            self._place_here(peers, wait, again=again)

    def _send(self, peers: Peers, wait: Wait, peer: PeerLoads, replica_id: str) -> None:
        hop = self._hop = peers.send(wait, peer, replica_id)
        if hop is None:  # its connection ends at this moment
            wait.refused |= {peer.host}
            wait.told = LOST
            self.place(again=self._again)

    def _give_up(self, told: Failed) -> None:
        """End with what a host told, or with the failure of the attempt before."""
        if self._failure is None:
            self._fail(_as_error(told), "refused")
        else:
            self._fail(from_failure(self._failure), "failed")

    def go(self, peer: PeerLoads | None, replica_id: str) -> None:
        """Leave the place where the request waits, and go to a peer, or to this host (None)."""
        peers, wait = self._state.peers, self._wait
        if wait is None or self.phase is not Phase.WAITING:
            return
        self._leave()
        self._again = False
        if peer is None:
            self._place_here(peers, wait, again=True)
        else:
            self._send(peers, wait, peer, replica_id)

    def look_again(self) -> None:
        """Look for a host again: the request waits at none."""
        if self.phase is Phase.WAITING:
            self.place(again=self._again)

    def ask(self, replica_id: str) -> tuple[Open, bytes]:
        """Return what another host is sent, with the replica where it should start (or empty)."""
        flight, request, cost = self.flight, self.request, self.flight.cost
        now = time.monotonic()
        latest = now if self._wait is None else self._wait.latest
        others = [name for name in flight.prefer if name != replica_id]
        asked = Open(
            self.model.route.name,
            self.route.path,
            self.record.request_id,
            len(self.body),
            request.stream,
            cost.sequences,
            min(cost.kv_tokens, MOST),
            key=flight.share.key,
            weight=flight.share.weight,
            priority=flight.share.priority,
            wait_seconds=max(0.0, latest - now),
            total_seconds=max(0.0, self._deadline - now),
            again=self._again,
            prefer=(replica_id, *others) if replica_id else tuple(others),
            tried=tuple(flight.tried),
            attempts=flight.attempts - flight.unreached,
            session=flight.session,
            blocks=b"".join(flight.blocks),
            prompt_bytes=request.size.prompt_bytes,
            prompt_tokens=min(cost.prompt_tokens, MOST),
            output_tokens=min(cost.output_tokens, MOST),
            interval=min(cost.interval, MOST),
            traced=self.traced,
            load=self.load_line(),
            output_limit=MOST if cost.output_limit is None else min(cost.output_limit, MOST),
        )
        return asked, self.body

    def hop_placed(self, stream: PeerStream, replica_id: str) -> None:
        """Begin: the request has a place on a replica of another host."""
        hop, wait = self._hop, self._wait
        if hop is None or hop.stream is not stream or wait is None:
            stream.close()
            return
        self._state.peers.waits_no_more(wait)
        self._state.metrics.hops[hop.loads.host, "placed"] += 1
        flight = self.flight
        replica = PeerReplica(replica_id, stream, hop.left)
        self._hop = None
        flight.placed_at = time.monotonic()
        flight.replica = replica
        self.placed(replica)

    def hop_moved(self, replica_id: str, attempts: int) -> None:
        """Note that the owner has sent the request to another of its replicas."""
        flight, record = self.flight, self.record
        flight.attempts += 1
        if attempts > record.attempts:
            flight.tried |= {record.replica_id}
            self.model.retries.made_elsewhere()
        else:  # the replica before was not reached, so nothing was sent there
            flight.unreached += 1
        record.attempts = flight.attempts - flight.unreached
        record.replica_id = replica_id
        if self._attempt is not None:
            self._attempt.replica.replica_id = replica_id
            self._attempt.sent_at = time.monotonic()

    def hop_failed(self, failed: Failed, *, sent: bool) -> None:
        """Go on elsewhere, or end: the owner gives no answer."""
        if sent:
            self._failed_there(failed)
            return
        hop, wait = self._hop, self._wait
        self._hop = None
        if hop is None or wait is None or self.phase is not Phase.WAITING:
            return
        self._state.peers.waits_no_more(wait)
        is_suspect = failed.code in {QUARANTINED.code, ON_TRIAL}
        hop.left(refused=failed.refused and not is_suspect)
        outcome = "refused" if failed.refused else "failed"
        self._state.metrics.hops[hop.loads.host, outcome] += 1
        if is_suspect:
            self._suspected = True  # it stays on record here, too
            if failed.code == QUARANTINED.code:
                seconds = failed.retry_after_seconds or 0
                self._state.quarantine.heard(self._fingerprint(), seconds, time.monotonic())
            self._fail(_as_error(failed), "refused")
            return
        if failed is LOST and hop.loads.host not in wait.lost:
            wait.lost |= {hop.loads.host}
            wait.until = 0.0  # nobody has begun it: the host may be asked once more, if it is back
        else:
            wait.refused |= {hop.loads.host}
            wait.told = failed
        if wait.told is not None and time.monotonic() >= wait.latest:
            self._give_up(wait.told)
        else:
            # It has waited before: what it finds now does not refuse it for the wait to come.
            self.place(again=self.flight.attempts > 0 or wait.moves > 0)

    def _failed_there(self, failed: Failed) -> None:
        """Note what the owner tells of an attempt that failed; the attempt itself fails next."""
        if failed.code == QUARANTINED.code:
            self.suspected()
            self._state.quarantine.died_elsewhere(self._fingerprint(), time.monotonic())
        if failed.code == UNREACHED and self._wait is not None:
            self._wait.refused |= {self._wait.host}
            self._wait.told = failed

    def sweep(self, now: float) -> None:
        """Check whether a time limit has passed."""
        hop, wait = self._hop, self._wait
        if hop is not None and wait is not None and now > wait.latest + wait.longest + HOP_SECONDS:
            # Owners end the wait themselves. One that holds a request while a replica starts may
            # begin it anew once.
            self._leave()
            self._give_up(SILENT)
        else:
            super().sweep(now)

    def placed(self, replica: FlightTarget) -> None:
        """Begin an attempt on the replica, where the request has a place now."""
        if self._wait is not None:
            self._state.peers.waits_no_more(self._wait)
            self._wait.latest = 0.0  # a retry waits anew
        super().placed(replica)

    def has_another(self) -> bool:
        """Return whether a replica that has not failed the request yet could take it."""
        if super().has_another():
            return True
        peers = self._state.peers
        return bool(peers) and peers.has_another_for(self.model, self.flight)

    def _leave(self) -> None:
        """Give the place back, in the queue or at a replica, here or at another host."""
        hop, self._hop = self._hop, None
        if hop is not None:
            hop.cancel()
            self._state.metrics.hops[hop.loads.host, "withdrawn"] += 1
        if self._wait is not None:
            self._state.peers.waits_no_more(self._wait)
        super()._leave()

    # Ends

    def add_debug_headers(self) -> None:
        """Add to the answer the headers that name the replica, if the client may see them."""
        wanted = self._state.options.debug_headers
        if wanted == "never" or (wanted == "asked" and self.head.debug != b"1"):
            return
        record = self.record
        queued = (record.queue_seconds or 0.0) * 1000
        total = (time.monotonic() - record.started_at) * 1000
        self.http.extra += (
            f"x-partitiond-replica: {record.replica_id}\r\n"
            f"x-partitiond-attempts: {record.attempts}\r\n"
            f"x-partitiond-queue-ms: {queued:.3f}\r\n"
            f"x-partitiond-first-byte-ms: {total:.3f}\r\n"
        ).encode()

    def settle(self) -> None:
        """Charge the key, in the same way for every end, and correct the estimated reservation."""
        super().settle()
        receipt, self._receipt = self._receipt, None
        if receipt is not None:
            self._state.accounts.settle(receipt, float(self.record.charge.tokens))

    def close_books(self, seconds: float, replica: LiveReplica | None) -> None:
        """Count, trace and log the request."""
        state, record = self._state, self.record
        wait, self._wait = self._wait, None
        if wait is not None:
            state.peers.waits_no_more(wait)
        record.count(state.metrics, seconds, self.flight, replica)
        if self._trace is not None and self._trace.sampled and state.tracer is not None:
            state.tracer.ended(self._trace, record, self.flight, seconds)
        record.write(state.log, seconds)


def _as_error(failed: Failed) -> ApiError:
    """Return the error for the client of a request that another host did not serve."""
    return ApiError(
        failed.status,
        failed.message,
        LIMITED if failed.status == 429 else SERVER,
        code=failed.code,
        retry_after_seconds=failed.retry_after_seconds,
    )
