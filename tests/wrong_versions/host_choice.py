"""Which host gets a request, which waiting ones are moved, and what is known of other hosts."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_FLEET: Final = "partitiond/core/dispatch/fleet.py"
_MOVES: Final = "partitiond/core/dispatch/host_moves.py"
_LOADS: Final = "partitiond/core/dispatch/peer_loads.py"
_TEST_FLEET: Final = "tests/core/dispatch/test_fleet.py"
_TEST_MOVES: Final = "tests/core/dispatch/test_host_moves.py"
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
                "        self.told_at = now\n        self.full = False\n",
                "        self.told_at = now\n",
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
            (_FLEET, "    if len(queue) >= queue.max_entries or not any(\n", "    if not any(\n"),
            (
                _FLEET,
                "wait = ahead * peer.service_seconds / max(1, peer.sequences_in_flight())",
                "wait = float(ahead)",
            ),
            (_FLEET, "own.places.waiting_elsewhere()[1] + queue.sequences +", "queue.sequences +"),
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
        ),
    ),
)
