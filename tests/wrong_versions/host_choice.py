"""Which host gets a request, which waiting ones are moved, and what is known of other hosts."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_FLEET: Final = "partitiond/core/dispatch/fleet.py"
_MOVES: Final = "partitiond/core/dispatch/host_moves.py"
_LINK: Final = "partitiond/proxy/peers/link.py"
_KNOWN: Final = "partitiond/proxy/peers/known.py"
_STATE: Final = "partitiond/proxy/edge/state.py"
_LIVE: Final = "partitiond/proxy/dispatch/live.py"
_ROUTING: Final = "partitiond/core/dispatch/routing.py"
_DISPATCHER: Final = "partitiond/core/dispatch/dispatcher.py"
_LOADS: Final = "partitiond/core/dispatch/peer_loads.py"
_AFFINITY: Final = "partitiond/core/dispatch/host_affinity.py"
_TEST_AFFINITY: Final = "tests/core/dispatch/test_host_affinity.py"
_TEST_FLEET: Final = "tests/core/dispatch/test_fleet.py"
_TEST_MOVES: Final = "tests/core/dispatch/test_host_moves.py"
_TEST_HOPS: Final = "tests/proxy/peers/test_hops.py"
_TEST_LOADS: Final = "tests/core/dispatch/test_peer_loads.py"

HOST_CHOICE: Final[tuple[Rule, ...]] = (
    rule(
        "What was sent to a peer is added to its counts until it is in them, and only once.",
        _TEST_LOADS,
        wrong=(
            (_LOADS, "if number > last}", "if number >= last}"),
            (
                _LOADS,
                "            for sent in self._sent.values():\n",
                "            for sent in ():\n",
            ),
            (_LOADS, "sent = self._sent.pop(number, None)", "sent = self._sent.get(number)"),
            (_LOADS, "        self.ended(number)\n", ""),
            (_LOADS, "            self.waiting += sign\n", "            self.waiting += 1\n"),
            (_LOADS, "            replica.kv_tokens += sign * sent.cost.kv_tokens\n", ""),
            (_LOADS, "        self.full = True\n", "        self.full = False\n"),
            (
                _LOADS,
                "        self.told_at = made_at\n        self.full = False\n",
                "        self.told_at = made_at\n",
            ),
        ),
    ),
    rule(
        "A peer that tells nonsense harms only the requests that are sent to it.",
        _TEST_LOADS,
        _TEST_FLEET,
        _TEST_MOVES,
        wrong=(
            (_LOADS, "    if not told <= MOST:\n", "    if told > MOST:\n"),
            (_LOADS, "return int(told) if told > 0 else 0", "return int(told)"),
            (_LOADS, "return int(min(told, MOST)) if told > 0 else 0", "return int(told)"),
            (_LOADS, "seconds if 0.0 < seconds < math.inf else math.inf", "seconds"),
            (_MOVES, "min(peer.waiting, peer.max_waiting)", "peer.waiting"),
        ),
    ),
    rule(
        "Counts are fresh, old or silent by their age; old ones come last, silent ones never.",
        _TEST_LOADS,
        _TEST_FLEET,
        _TEST_MOVES,
        wrong=(
            (_LOADS, "now - self.told_at <= FRESH_SECONDS", "now - self.told_at <= SILENT_SECONDS"),
            (_LOADS, "not now - self.told_at <= SILENT_SECONDS", "now - self.told_at > math.inf"),
            (_FLEET, "(fresh if peer.is_fresh(now) else stale).append(peer)", "fresh.append(peer)"),
            (
                _FLEET,
                "_with_room(stale, request) or _with_queue(",
                "_with_queue(",
            ),
            (_FLEET, "best = best or _drawn(_with_room(stale", "best = _drawn(_with_room(stale"),
            (
                _FLEET,
                "_that_serve(fresh, request) or _that_serve(stale, request)",
                "_that_serve(fresh, request)",
            ),
            (_MOVES, "not target.is_fresh(now) or target.full", "target.full"),
            (_MOVES, "        if not peer.is_silent(now):\n", "        if peer:\n"),
        ),
    ),
    rule(
        "A request with room at its host leaves it only for one that is clearly less full, or that "
        "it prefers.",
        _TEST_FLEET,
        wrong=(
            (_FLEET, "best.figure + policy.hop_slack < least", "best.figure < least"),
            (_FLEET, "best.figure + policy.hop_slack < least", "least == math.inf"),
            (_FLEET, "<= PREFERENCE_SLACK if prefer else", "<= 1.0 if prefer else"),
            (_FLEET, "found.figure <= lowest + PREFERENCE_SLACK", "found.figure <= lowest"),
            (
                _FLEET,
                "            if shares[name] <= lowest + PREFERENCE_SLACK:\n",
                "            if shares[name]:\n",
            ),
            (
                _FLEET,
                "    lowest = min([least, *[found.figure for found in room]])\n",
                "    lowest = least\n",
            ),
            (
                _FLEET,
                "            limit = effective_limit(load.max_sequences, slowness)\n",
                "            limit = load.max_sequences\n",
            ),
        ),
    ),
    rule(
        "A request starts where there is room for it, nobody waits, and it may.",
        _TEST_FLEET,
        wrong=(
            (_FLEET, "        if peer.waiting or peer.full:\n", "        if peer.full:\n"),
            (_FLEET, "        if peer.waiting or peer.full:\n", "        if peer.waiting:\n"),
            (
                _FLEET,
                "if is_eligible(replica, tried) and admits(replica, cost):",
                "if is_eligible(replica, tried):",
            ),
            (
                _FLEET,
                "if is_eligible(replica, tried) and admits(replica, cost):",
                "if admits(replica, cost):",
            ),
            (
                _FLEET,
                "    if own.queue or own.places.waiting_elsewhere()[0]:\n        return {}\n",
                "",
            ),
            (
                _FLEET,
                "is_eligible(load, request.tried) and admits(load, request.cost, slowness)",
                "is_eligible(load, request.tried)",
            ),
            (
                _FLEET,
                "        if best is None or other.figure < best.figure:\n",
                "        if best is None or other.figure > best.figure:\n",
            ),
            (_FLEET, "for draw in draws] if draws and found else found", "for draw in draws]"),
        ),
    ),
    rule(
        "Without room a request waits where the wait is shortest and the queue has a place.",
        _TEST_FLEET,
        wrong=(
            (_FLEET, "wait <= (1 + policy.wait_slack) * best.figure", "wait <= best.figure"),
            (_FLEET, "wait <= (1 + policy.wait_slack) * best.figure", "wait < math.inf"),
            (_FLEET, "not p.full and p.waiting < part * p.max_waiting", "not p.full"),
            (_FLEET, "    part = 1 - policy.queue_slack\n", "    part = 1\n"),
            (_FLEET, "    if own.is_full or not any(", "    if not any("),
            (
                _FLEET,
                "wait = ahead * peer.service_seconds / max(1, peer.sequences_in_flight())",
                "wait = float(ahead)",
            ),
            (_FLEET, "own.places.waiting_elsewhere()[1] + own.queue.seq", "own.queue.seq"),
            (
                _FLEET,
                "        if any(is_eligible(load, request.tried) for load in own.places.loads()):"
                "\n            return STAY\n",
                "",
            ),
        ),
    ),
    rule(
        "A host that refused is not asked again, and only so many are asked.",
        _TEST_FLEET,
        wrong=(
            (
                _FLEET,
                "        if not (peer.host in refused or peer.is_silent(now)):\n",
                "        if not peer.is_silent(now):\n",
            ),
            (_FLEET, "    if len(refused) >= policy.max_refusals:\n        return None\n", ""),
            (_FLEET, "    here = OWN_HOST not in refused\n", "    here = True\n"),
            (_FLEET, "    if best is None and not refused:\n", "    if best is None:\n"),
        ),
    ),
    rule(
        "The shares of all hosts in a queue's bound are the bound, each rounded up.",
        _TEST_FLEET,
        wrong=(
            (
                _FLEET,
                "-(-max_queue * max(0, own_slots) // all_slots)",
                "max_queue * max(0, own_slots) // all_slots",
            ),
            (
                _FLEET,
                "-(-max_queue * max(0, own_slots) // all_slots)",
                "1 + max_queue * max(0, own_slots) // all_slots",
            ),
            (
                _FLEET,
                "    if all_slots <= 0:\n        return max_queue\n",
                "    if all_slots <= 0:\n        return 0\n",
            ),
            (_FLEET, "return min(max_queue, -(-", "return (-(-"),
        ),
    ),
    rule(
        "The hosts that serve a model share its queue's bound by the slots in the table.",
        _TEST_FLEET,
        "tests/controller/runtime/test_routes.py",
        f"{_TEST_HOPS}::test_the_hosts_share_the_bound_of_the_queue",
        wrong=(
            (
                _FLEET,
                "queue_share(self._max_queue, self._slots.get(host, 0), self._all_slots)",
                "self._max_queue",
            ),
            (_ROUTING, "if replica.host in hosts and not replica.draining:", "if replica.host:"),
            (
                _ROUTING,
                "if replica.host in hosts and not replica.draining:",
                "if replica.host in hosts:",
            ),
            (
                _ROUTING,
                "of[replica.host] = of.get(replica.host, 0) + replica.max_sequences",
                "of[replica.host] = replica.max_sequences",
            ),
            (_STATE, "QueueShares(route).of(table.host) if table.peers else None", "None"),
            (
                _LIVE,
                "self.slots.changed(now, route=route, most=most, removed=removed)",
                "self.slots.changed(now, route=route, removed=removed)",
            ),
            (_KNOWN, "0 if shares is None else shares.of(loads.host)", "1 << 40"),
            (
                _DISPATCHER,
                "return len(self.queue) + self.places.waiting_elsewhere()[0] >= self._most",
                "return len(self.queue) >= self._most",
            ),
        ),
    ),
    rule(
        "Counts are as old as the peer's clock says, whose pace alone is believed.",
        _TEST_LOADS,
        f"{_TEST_HOPS}::test_counts_that_were_long_on_their_way_are_old",
        wrong=(
            (_LOADS, "return now - (took - min(self._least, self._before))", "return now"),
            (_LOADS, "took - min(self._least, self._before)", "took - self._least"),
            (_LOADS, "self._least = min(self._least, took)", "self._least = took"),
            (_LOADS, "if now - self._began_at > PACE_SECONDS:", "if self._began_at < 0.0:"),
            (_LINK, "self._clock.made_at(told, time.monotonic())", "time.monotonic()"),
        ),
    ),
    rule(
        "What is known of a peer ends with the connection on which it was told.",
        _TEST_HOPS,
        wrong=(
            (
                _LINK,
                "            self.is_heard = False\n            self.loads = {}\n",
                "            self.is_heard = False\n",
            ),
            (_LINK, "        if link is not self.link:\n            return\n", ""),
            (
                _LINK,
                "        self.is_leaving = True\n        self._client.lost(self)\n",
                "        self.is_leaving = True\n",
            ),
            (
                _LINK,
                "        if self._beat_timer is not None:\n"
                "            self._beat_timer.cancel()\n"
                "        self._client.lost(self)\n",
                "",
            ),
        ),
    ),
    rule(
        "What runs on the connection of a host that leaves goes on, and then the connection ends.",
        f"{_TEST_HOPS}::test_what_runs_on_a_host_that_leaves_takes_its_time",
        wrong=(
            (
                _LINK,
                "        super().connection_made(transport)\n        self._beat()\n",
                "        super().connection_made(transport)\n",
            ),
            (
                _LINK,
                "        if self.is_leaving and not self._streams:\n            self.finish()\n",
                "",
            ),
            (
                _LINK,
                "        if not self._streams:\n            self.finish()\n",
                "        self.finish()\n",
            ),
        ),
    ),
    rule(
        "As many waiting requests are moved as fit, in order, and by an entry its share of them.",
        _TEST_MOVES,
        wrong=(
            (
                _MOVES,
                "return -movable.request.share.priority, movable.since",
                "return 0, movable.since",
            ),
            (
                _MOVES,
                "return -movable.request.share.priority, movable.since",
                "return -movable.request.share.priority, -movable.since",
            ),
            (_MOVES, "* mine / max(mine, everyone) + draw)", "+ draw)"),
            (_MOVES, "* mine / max(mine, everyone) + draw)", "* mine / max(mine, everyone))"),
            (_MOVES, "        if left < 1:\n            break\n", ""),
            (_MOVES, "            chosen.sequences += request.cost.sequences\n", ""),
            (_MOVES, "            chosen.kv_tokens += request.cost.kv_tokens\n", ""),
            (_MOVES, "len(own.queue) + own.places.waiting_elsewhere()[0]\n", "len(own.queue)\n"),
            (_MOVES, "if movable.host == name or movable.moves", "if movable.moves"),
            (_MOVES, "movable.moves >= policy.max_moves", "movable.moves > policy.max_moves"),
            (_MOVES, " or name in movable.refused:", ":"),
            (
                _MOVES,
                "        if own.queue or own.places.waiting_elsewhere()[0]:\n",
                "        if own.queue:\n",
            ),
            (_MOVES, "target.full or target.waiting:", "target.full:"),
            (
                _MOVES,
                "        if now < movable.known_at:\n",
                "        if now <= movable.known_at:\n",
            ),
            (_MOVES, "        if now < movable.known_at:\n            continue\n", ""),
        ),
    ),
    rule(
        "A session is found where it was placed last, whichever host placed it.",
        _TEST_AFFINITY,
        wrong=(
            (
                _AFFINITY,
                "told is not None and (own is None or told[1] > own[1])",
                "told is not None and own is None",
            ),
            (
                _AFFINITY,
                "told is not None and (own is None or told[1] > own[1])",
                "told is not None",
            ),
            (
                _AFFINITY,
                "            if own is not None:\n                return (own[0],)\n",
                "",
            ),
            (
                _AFFINITY,
                "            self._own_sessions.note(session, replica_id, now)\n",
                "            pass\n",
            ),
            (
                _AFFINITY,
                "            self._told_sessions.note(session, replica_id, now)\n",
                "            pass\n",
            ),
            (
                _AFFINITY,
                "self._own_sessions.seconds = self._told_sessions.seconds = seconds",
                "self._own_sessions.seconds = seconds",
            ),
        ),
    ),
    rule(
        "The longest beginning that any host has read wins; of equals, the own replicas are first.",
        _TEST_AFFINITY,
        wrong=(
            (_AFFINITY, "        if own_length >= told_length:\n", "        if own_length:\n"),
            (_AFFINITY, "        if told_length >= own_length:\n", "        if told_length:\n"),
            (
                _AFFINITY,
                "        if told_length >= own_length:\n",
                "        if told_length > own_length:\n",
            ),
            (_AFFINITY, "[one for one in unique if one in here] + ", "[o for o in unique if 0] + "),
            (
                _AFFINITY,
                "        unique = list(dict.fromkeys(found))\n",
                "        unique = list(found)\n",
            ),
        ),
    ),
    rule(
        "A host tells what was placed on its own replicas, once and bounded; what it is told is "
        "bounded, too, and kept apart.",
        _TEST_AFFINITY,
        wrong=(
            (_AFFINITY, "if here and self.lately is not None:", "if self.lately is not None:"),
            (_AFFINITY, "        self._sessions, self._blocks = {}, {}\n", ""),
            (_AFFINITY, "        if len(kept) > self._most:\n", "        if len(kept) < 0:\n"),
            (_AFFINITY, "        kept.pop(digest, None)\n", ""),
            (_AFFINITY, " or len(joined) > most * DIGEST_BYTES:", ":"),
            (_AFFINITY, "if len(joined) % DIGEST_BYTES or ", "if "),
            (
                _AFFINITY,
                "        self._told_prefixes = Prefixes(max_entries)\n",
                "        self._told_prefixes = self._own_prefixes\n",
            ),
            (
                _AFFINITY,
                "        self._told_sessions = SessionAffinity(seconds, max_entries)\n",
                "        self._told_sessions = self._own_sessions\n",
            ),
        ),
    ),
)
