"""Finds a place for a client's request among this host and the others.

`core.dispatch.fleet` chooses the host, `peers.known` keeps the connections and moves requests that
wait. A request at another host has an attempt only once it has a place there.
"""

import time

from partitiond.core.dispatch.admission import Rejected, refuse_not_reached
from partitiond.core.dispatch.fleet import OWN_HOST
from partitiond.core.dispatch.peer_loads import SETTLE_SECONDS, PeerLoads
from partitiond.proxy.dispatch.live import HOST
from partitiond.proxy.dispatch.live_requests import HOP_SECONDS
from partitiond.proxy.edge.exchange import QUARANTINED, Exchange
from partitiond.proxy.edge.phases import Phase
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.peers.hop import LOST, SILENT, UNREACHED, Hop, RemoteRequest
from partitiond.proxy.peers.known import NOWHERE
from partitiond.proxy.peers.messages import MOST, Failed, Open
from partitiond.proxy.request.errors import NO_ROOM, ApiError, from_rejected


class HostSearch(RemoteRequest):
    """The search of one request."""

    __slots__ = ("_again", "_exchange", "_hop", "_peers", "_state")

    def __init__(self, state: ProxyState, exchange: Exchange) -> None:
        live, model = exchange.live, exchange.model
        first = model.slots.places.first_token_seconds(live)
        longest = min(model.route.longest_wait_seconds(first), live.max_wait_seconds)
        super().__init__(live, model, exchange.route, longest)
        self._state = state
        self._peers = state.peers
        self._exchange = exchange
        self._hop: Hop | None = None
        self._again = False

    # Calls of the exchange

    def place(self, *, again: bool) -> None:
        """Find a replica, here or at another host, or wait for one, or end with a refusal."""
        if not self.latest:
            self.latest = time.monotonic() + self.longest
        self._again = again
        choice = self._peers.choose(self)
        if choice is None:
            self._place_without_peers()
        elif choice.peer is None:
            self._place_here(again=again)
        else:
            self._send(choice.peer, choice.replica_id)

    def _place_here(self, *, again: bool) -> None:
        self.request.max_wait_seconds = max(0.0, self.latest - time.monotonic())
        self._exchange.place_here(again=again)
        if self._exchange.phase is Phase.WAITING:
            self._peers.waits(self, OWN_HOST)

    def _place_without_peers(self) -> None:
        if self.told is not None:
            self._exchange.fail_waiting(_as_error(self.told))
        elif self._peers.may_learn(self):
            self._peers.waits(self, NOWHERE)
        elif self.model.route.elsewhere:
            self._exchange.refused(refuse_not_reached(self.model.route.name))
        else:
            self._place_here(again=self._again)

    def _send(self, peer: PeerLoads, replica_id: str) -> None:
        hop = self._hop = self._peers.send(self, peer, replica_id)
        if hop is not None:
            hop.start()
        else:  # it has just ceased to be heard
            self.refused |= {peer.host}
            self.told = LOST
            self.place(again=self._again)

    def has_another(self) -> bool:
        """Whether another host has a replica that has not failed the request yet."""
        return bool(self._peers) and self._peers.has_another_for(self.model, self.request)

    def placed(self) -> None:
        """Note that the request has a place."""
        self._peers.waits_no_more(self)
        self.latest = 0.0  # a retry waits anew

    def sweep(self, now: float) -> None:
        """Take the request back from a host that neither starts nor refuses it."""
        # Owners end the wait themselves. One that holds a request while a replica starts may
        # begin it anew once.
        if self._hop is not None and now > self.latest + self.longest + HOP_SECONDS:
            self._exchange.leave()
            self._exchange.fail_waiting(_as_error(SILENT))

    def leave(self) -> None:
        """Give back the place where the request waits; harmless if it waits nowhere."""
        hop, self._hop = self._hop, None
        if hop is not None:
            hop.cancel()
            self._state.metrics.hops[hop.loads.host, "withdrawn"] += 1
        self._peers.waits_no_more(self)

    # Calls of the peers

    def go(self, peer: PeerLoads | None, replica_id: str) -> None:
        """Leave the place where the request waits, and go to a peer, or to this host (None)."""
        if self._exchange.phase is not Phase.WAITING:
            return
        self._exchange.leave()
        self._again = False
        if peer is None:
            self._place_here(again=True)
        else:
            self._send(peer, replica_id)

    def look_again(self) -> None:
        """Look for a host again: the request waits at none."""
        if self._exchange.phase is Phase.WAITING:
            self.place(again=self._again)

    def ask(self, replica_id: str) -> tuple[Open, bytes]:
        """Return what another host is sent, with the replica where it should start (or empty)."""
        exchange, live, cost = self._exchange, self.request, self.request.cost
        now = time.monotonic()
        others = [name for name in live.prefer if name != replica_id]
        asked = Open(
            self.model.route.name,
            exchange.record.request_id,
            exchange.request.stream,
            cost.sequences,
            min(cost.kv_tokens, MOST),
            key=live.share.key,
            weight=live.share.weight,
            priority=live.share.priority,
            wait_seconds=max(0.0, self.latest - now),
            total_seconds=max(0.0, exchange.deadline - now),
            again=self._again,
            prefer=(replica_id, *others) if replica_id else tuple(others),
            tried=tuple(live.tried),
            blocks=b"".join(live.prefixes),
            prompt_bytes=exchange.request.size.prompt_bytes,
            prompt_tokens=min(cost.prompt_tokens, MOST),
            output_tokens=min(cost.output_tokens, MOST),
            traced=exchange.traced,
            output_limit=MOST if cost.output_limit is None else min(cost.output_limit, MOST),
        )
        return asked, exchange.body

    def on_bug(self) -> None:
        """End the request after a bug of ours; called inside `except`."""
        self._exchange.on_bug()

    # Calls of the hop

    def hop_placed(self, hop: Hop) -> None:
        """Begin: the request has a place on a replica of another host."""
        if hop is not self._hop:
            hop.cancel()
            return
        self._state.metrics.hops[hop.loads.host, "placed"] += 1
        self._hop = None
        self.request.placed_at = time.monotonic()
        self.request.takes = self.request.cost.at_once(hop.placed.sequences)
        self.model.speeds.tell(HOST + hop.host, hop.placed.tokens_per_s)
        self.request.replica = hop
        self._exchange.placed(hop)

    def hop_waits(self) -> None:
        """Show life to the client: the request waits for a replica of another host that starts."""
        if not self._exchange.answer.is_promised:  # else the sweeper goes on
            self._exchange.waits(time.monotonic())

    def hop_failed(self, failed: Failed, *, sent: bool) -> None:
        """Go on elsewhere, or end: the owner gives no answer."""
        if sent:
            self._failed_there(failed)
            return
        hop, self._hop = self._hop, None
        exchange = self._exchange
        if hop is None or exchange.phase is not Phase.WAITING:
            return
        self._peers.waits_no_more(self)
        is_suspect = failed.code == QUARANTINED.code
        hop.left(refused=failed.refused and not is_suspect)
        outcome = "refused" if failed.refused else "failed"
        self._state.metrics.hops[hop.loads.host, outcome] += 1
        if is_suspect:
            seconds, now = failed.retry_after_seconds or 0, time.monotonic()
            self._state.quarantine.heard(exchange.fingerprint(), seconds, now)
            exchange.fail(_as_error(failed), "refused")
            return
        if failed is LOST and hop.loads.host not in self.lost:
            self.lost |= {hop.loads.host}
            self.until = 0.0  # nobody has begun it: the host may be asked once more, if it is back
        else:
            self.refused |= {hop.loads.host}
            self.told = failed
        # Its owner ends the wait at the same moment, by its own clock: what is left is no wait.
        if self.told is not None and time.monotonic() >= self.latest - SETTLE_SECONDS:
            exchange.fail_waiting(_as_error(self.told))
        else:
            # It has waited before: what it finds now does not refuse it for the wait to come.
            self.place(again=self.request.attempts > 0 or self.moves > 0)

    def _failed_there(self, failed: Failed) -> None:
        """Note what the owner tells of an attempt that failed; the attempt itself fails next."""
        if failed.code == QUARANTINED.code:
            self._exchange.suspected()
            fingerprint = self._exchange.fingerprint()
            self._state.quarantine.died_elsewhere(fingerprint, time.monotonic())
        no_room = NO_ROOM.get(failed.code)
        if no_room is not None:
            self._exchange.give_up(no_room)
        if failed.code == UNREACHED:  # soon its owner tells so itself
            self.request.tried |= {self._exchange.record.replica_id}
            self.told = failed


def _as_error(failed: Failed) -> ApiError:
    """Return the error for the client of a request that another host did not serve."""
    return from_rejected(
        Rejected(failed.status, failed.code, failed.message, failed.retry_after_seconds)
    )
