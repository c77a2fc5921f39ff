"""Sessions, and who waited in vain."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_REPLICAS: Final = "partitiond/proxy/dispatch/replicas.py"
_EXCHANGE: Final = "partitiond/proxy/edge/exchange.py"
_ATTEMPT: Final = "partitiond/proxy/edge/attempt.py"
_SERVING: Final = "partitiond/proxy/edge/serving.py"
_LIVE: Final = "partitiond/proxy/dispatch/live.py"
_BUDGET: Final = "partitiond/core/dispatch/retry_budget.py"
_DISPATCH: Final = "partitiond/core/dispatch/dispatcher.py"
_AFFINITY: Final = "partitiond/core/dispatch/affinity.py"
_QUEUE: Final = "partitiond/core/dispatch/fair_queue.py"
_INCOMING: Final = "partitiond/proxy/edge/incoming.py"
_STATE: Final = "partitiond/proxy/edge/state.py"
_DEAD: Final = "tests/proxy/test_dead_replicas.py::"
_RETRIES: Final = "tests/proxy/test_retries.py"
_TOKENISING: Final = "tests/proxy/test_tokenising.py::"

REPLICAS: Final[tuple[Rule, ...]] = (
    rule(
        "A replica that nobody listens on gets no request until a probe connects.",
        f"{_DEAD}test_a_replica_that_nobody_listens_on_takes_no_attempt_and_no_retry",
        f"{_DEAD}test_it_is_back_once_somebody_listens_without_another_table",
        f"{_DEAD}test_all_dead_is_told_at_once_and_the_first_that_is_back_serves",
        f"{_DEAD}test_who_waits_for_the_last_one_is_told_when_it_dies",
        f"{_DEAD}test_the_share_is_of_those_that_listen",
        f"{_DEAD}test_another_process_behind_the_socket_starts_without_a_past",
        f"{_DEAD}test_a_dead_replica_that_left_the_table_is_not_looked_at_any_more",
        f"{_DEAD}test_an_engine_with_no_room_for_another_connection_is_not_dead",
        f"{_DEAD}test_a_socket_that_an_engine_left_behind_is_nobody",
        wrong=(
            (
                _REPLICAS,
                "        self.is_dead = self.ejected = True\n",
                "        self.is_dead = True\n",
            ),
            (
                _REPLICAS,
                "        asyncio.get_running_loop().call_later(PROBE_SECONDS, self.look_again)\n"
                "        self.model.replicas_changed()\n",
                "        self.model.replicas_changed()\n",
            ),
            (
                _REPLICAS,
                "        asyncio.get_running_loop().call_later(PROBE_SECONDS, self.look_again)\n"
                "        self.model.replicas_changed()\n",
                "        asyncio.get_running_loop().call_later(PROBE_SECONDS, self.look_again)\n",
            ),
            (
                _REPLICAS,
                "        if self.model.replicas.get(self.replica_id) is not self:\n"
                "            return\n",
                "",
            ),
            (
                _REPLICAS,
                "        self.health = HEALTHY  # another process\n",
                "",
            ),
            (_REPLICAS, "not (replica.is_dead or replica.draining)", "not replica.draining"),
            (
                _REPLICAS,
                "        except OSError:  # as a full backlog: somebody is there\n"
                "            return True\n",
                "        except OSError:\n            return False\n",
            ),
            (
                _REPLICAS,
                "        except (ConnectionRefusedError, FileNotFoundError):\n",
                "        except FileNotFoundError:\n",
            ),
            (_SERVING, "            flight.unreached += 1\n", ""),
        ),
    ),
    rule(
        "A request that came after an engine's connections began to break did not kill it.",
        "tests/proxy/test_quarantine.py",
        wrong=(
            (
                _REPLICAS,
                "        flights = [flight for flight in self.flights"
                " if flight.placed_at <= self._broke_at]\n",
                "        flights = list(self.flights)\n",
            ),
            (_REPLICAS, "min(self._broke_at, now)", "now"),
            (_REPLICAS, "if flight.placed_at <= self._broke_at]", "if self._broke_at == math.inf]"),
            (_REPLICAS, "            if idle_end:\n", "            if False:\n"),
            (_REPLICAS, "now - self._broke_at > quarantine.policy.dying_seconds", "False"),
            (
                _REPLICAS,
                'stays out."""\n        self._broke_at = math.inf\n',
                'stays out."""\n',
            ),
            (
                _REPLICAS,
                "        self._broke_at = math.inf\n"
                "        self.health = HEALTHY  # another process\n",
                "        self.health = HEALTHY  # another process\n",
            ),
        ),
    ),
    rule(
        "An engine whose connection broke is looked at again before its request goes elsewhere.",
        "tests/proxy/test_quarantine.py",
        "tests/proxy/test_retries.py",
        wrong=(
            (_REPLICAS, "return quarantine.policy.look_again_seconds", "return 0.0"),
            (
                _ATTEMPT,
                "            self._exchange.connection_broke(self.replica, idle_end=False)\n",
                "",
            ),
            (
                _ATTEMPT,
                "        if self._over:\n            return\n        try:\n"
                "            self._exchange.connection_broke(self.replica, idle_end=False)\n"
                "            self._fail(failure)\n",
                "        try:\n"
                "            self._exchange.connection_broke(self.replica, idle_end=False)\n"
                "            self._exchange.attempt_failed(failure)\n",
            ),
        ),
    ),
    rule(
        "Credit for retries is a model's own, and taken only where another replica may serve.",
        _RETRIES,
        f"{_DEAD}test_a_request_that_was_sent_is_a_retry_like_any_other",
        wrong=(
            (
                _SERVING,
                "self.has_another() and self.model.retries.take()",
                "self.model.retries.take() and self.has_another()",
            ),
            (
                _SERVING,
                "self.has_another() and self.model.retries.take()",
                "self.has_another()",
            ),
            (_SERVING, "            self.model.retries.give_back()\n", "            pass\n"),
            (
                _SERVING,
                "        self._owes_retry = False\n        # The queue",
                "        # The queue",
            ),
            (
                _LIVE,
                "        self.retries = RetryBudget()\n",
                '        self.retries = globals().setdefault("_CREDIT", RetryBudget())\n',
            ),
            (_BUDGET, "if self.share <= 0 or self.credit < 1:", "if self.credit < 1:"),
            (_EXCHANGE, "        model.retries.count_request()\n", ""),
        ),
    ),
    rule(
        "Of a session only a digest is kept.",
        "tests/core/dispatch/test_affinity.py",
        wrong=(
            (
                _AFFINITY,
                "    return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).digest()\n",
                "    return encoded\n",
            ),
            (
                _AFFINITY,
                "    return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).digest()\n",
                "    return encoded[:DIGEST_BYTES]\n",
            ),
            (
                _AFFINITY,
                'session.encode(errors="surrogatepass")',
                'session.encode(errors="ignore")',
            ),
            (_AFFINITY, 'session.encode(errors="surrogatepass")', "session.encode()"),
        ),
    ),
    rule(
        "Tokenising has few places at each replica, and a queue of its own.",
        f"{_TOKENISING}test_a_flood_reaches_an_engine_a_few_at_a_time",
        f"{_TOKENISING}test_each_replica_has_its_own_bound_and_needs_no_slot",
        f"{_TOKENISING}test_a_dead_replica_tokenises_nothing",
        f"{_TOKENISING}test_a_draining_replica_tokenises_nothing_new",
        f"{_TOKENISING}test_a_full_replica_tokenises_at_once",
        f"{_TOKENISING}test_who_waits_too_long_or_for_nobody_is_told",
        f"{_TOKENISING}test_a_key_that_floods_does_not_hold_up_another",
        f"{_TOKENISING}test_workers_share_it",
        wrong=(
            (_REPLICAS, "PLACE: Final = Cost(1, 0)", "PLACE: Final = Cost(0, 0)"),
            (_REPLICAS, "max(1, TOKENISING_AT_ONCE // workers)", "TOKENISING_AT_ONCE"),
            (_REPLICAS, "max(1, TOKENISING_AT_ONCE // workers)", "TOKENISING_AT_ONCE // workers"),
            (_REPLICAS, "        return self.replica.ejected\n", "        return False\n"),
            (_REPLICAS, "        return self.replica.draining\n", "        return False\n"),
            (
                _LIVE,
                "        if flight.cost.sequences:\n            found =",
                "        if flight:\n            found =",
            ),
            (
                _REPLICAS,
                "                self.desk.sequences -= 1\n",
                "                pass\n",
            ),
            (
                _DISPATCH,
                "                        cost.kv_tokens or 1,\n",
                "                        cost.kv_tokens,\n",
            ),
        ),
    ),
    rule(
        "Who waited in vain is told when it could start if it came again now.",
        "tests/core/dispatch/test_fair_queue.py::"
        "test_who_waited_in_vain_is_told_of_what_its_own_key_would_wait_for",
        "tests/simulated/replay/test_same_as_proxy.py",
        wrong=(
            (_QUEUE, "    queue.discard(entry)\n    ahead =", "    ahead ="),
            (
                _QUEUE,
                "ahead = queue.ahead(key=entry.key, weight=entry.weight, priority=entry.priority)",
                "ahead = queue.ahead(key=entry.key, weight=entry.weight, priority=entry.priority, "
                "deadline=entry.deadline)",
            ),
            (
                _QUEUE,
                "ahead = queue.ahead(key=entry.key, weight=entry.weight, priority=entry.priority)",
                "ahead = queue.sequences",
            ),
            (
                _QUEUE,
                "now - entry.since, elsewhere + ahead, limits",
                "now - entry.since, ahead, limits",
            ),
            (
                _DISPATCH,
                "            self._told.append((entry, expire(self.queue, entry, now, limits, "
                "elsewhere)))\n",
                "            self.queue.discard(entry)\n"
                "            self._told.append((entry, self._refuse_full(elsewhere, limits)))\n",
            ),
        ),
    ),
    rule(
        "Large bodies are bounded together, from their first byte to their answer.",
        "tests/proxy/test_bodies.py",
        wrong=(
            (
                _STATE,
                "if self.body_bytes + more > options.max_bodies_bytes:",
                "if more > options.max_bodies_bytes:",
            ),
            (
                _STATE,
                "        more = size - exchange.held_bytes\n",
                "        more = size\n",
            ),
            (_STATE, "        exchange.held_bytes = 0\n", ""),
            (
                _STATE,
                '        """A request ended."""\n        self.release_body(exchange)\n',
                '        """A request ended."""\n',
            ),
            (
                _STATE,
                '        """A request ended before it was in flight."""\n'
                "        self.release_body(exchange)\n",
                '        """A request ended before it was in flight."""\n',
            ),
            (
                _INCOMING,
                "return self._size > SMALL_BODY_BYTES or",
                "return self._size > 0 or",
            ),
            (_INCOMING, " or not self.client.is_answering(self)", ""),
            (
                _INCOMING,
                "            self._parts = []\n            self._state.release_body(self)\n"
                "        self._deadline = min",
                "            self._parts = []\n        self._deadline = min",
            ),
            (
                _INCOMING,
                "        self._parts = []\n        self._state.release_body(self)\n"
                "        if self._state.draining",
                "        self._parts = []\n        if self._state.draining",
            ),
        ),
    ),
)
