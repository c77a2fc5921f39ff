"""How several hosts keep one key's limits."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_PORTIONS: Final = "partitiond/core/keys/portions.py"
_ALLOWANCE: Final = "partitiond/core/keys/allowance.py"
_RATES: Final = "partitiond/core/keys/rates.py"
_ACCOUNTS: Final = "partitiond/proxy/keys/accounts.py"
_OVER_HOSTS: Final = "partitiond/proxy/keys/over_hosts.py"
_WORKERS: Final = "partitiond/proxy/keys/over_workers.py"
_ROWS: Final = "partitiond/proxy/keys/rows.py"
_EXCHANGE: Final = "partitiond/proxy/edge/exchange.py"
_PEER_REQUEST: Final = "partitiond/proxy/peer_server/request.py"
_OF_WORKERS: Final = "tests/proxy/peers/test_keys_of_workers.py"
_STREAM: Final = "partitiond/proxy/peers/stream.py"
_USAGE: Final = "tests/proxy/peers/test_usage_over_hops.py"
_TESTS: Final = "tests/core/keys/test_portions.py"
_WIRED: Final = "tests/proxy/peers/test_key_limits.py"

PORTIONS: Final[tuple[Rule, ...]] = (
    rule(
        "A host keeps within every word that a peer may have heard last.",
        _TESTS,
        wrong=(
            (_PORTIONS, "for row in reversed(self._rows):", "for row in self._rows[-1:]:"),
            (_PORTIONS, "            if row.number <= number:\n", "            if True:\n"),
            (_PORTIONS, "_least(floors, at), _least(ceilings, bounds)", "at, bounds"),
            (_PORTIONS, "start, first, first))", "start, first, (math.inf,) * 4))"),
            (
                _PORTIONS,
                "if word.heard_incarnation == self.incarnation and self._rows:",
                "if self._rows:",
            ),
            (_ALLOWANCE, "used + amount > self.ceiling + TOLERANCE", "False"),
        ),
    ),
    rule(
        "A host leaves its peers what they may use unheard, but for one request of each.",
        _TESTS,
        wrong=(
            (_ALLOWANCE, "left - amount < self.unheard - TOLERANCE", "left < amount"),
            (_ALLOWANCE, "return self.largest > amount and left", "return left"),
            (_ALLOWANCE, "if used > self.floor + TOLERANCE and used", "if used"),
            (
                _PORTIONS,
                "                sums[at] += amount\n",
                "                sums[at] = amount\n",
            ),
            (_PORTIONS, "GIVEN * (1.0 - equal * (hosts - sharing)) / sharing", "GIVEN * equal"),
            (
                _PORTIONS,
                "        self.allowance is not None and self.allowance.wanted\n",
                "False\n",
            ),
            (_RATES, "        allowance.wanted = True\n", ""),
        ),
    ),
    rule(
        "What a silent host may use counts as used, and both sides of a cut keep the limit.",
        _TESTS,
        wrong=(
            (_PORTIONS, "if silent and 2 * (len(reached) + 1) <= hosts:", "if False:"),
            (
                _PORTIONS,
                "if silent and 2 * (len(reached) + 1) <= hosts:",
                "if silent and 2 * (len(reached) + 1) < hosts:",
            ),
            (_PORTIONS, "if silent and 2 * (len(reached) + 1) <= hosts:", "if silent:"),
            (_PORTIONS, "used = max(used, last + may[3])", "used = max(used, last)"),
            (_PORTIONS, "running += known.usage.in_flight + may[2]", "running += may[2]"),
            (_PORTIONS, "grown * limits[0], grown * limits[1]", "0.0, 0.0"),
            (_PORTIONS, "may[0] + since * self._rates.requests_per_minute", "may[0]"),
            (_PORTIONS, "since = max([peers.silent_since(host)", "since = min([peers.started"),
        ),
    ),
    rule(
        "Hosts that start anew, join or leave neither lose nor double what was used.",
        _TESTS,
        wrong=(
            (_PORTIONS, "tokens + used.budget_in(start) - before)", "tokens)"),
            (
                _PORTIONS,
                "self.remember(self.incarnation, had.budget_start, had.budget_tokens)",
                "pass",
            ),
            (_PORTIONS, "_bound[0], word.levels[0]), min", "_bound[0], MOST), min"),
            (
                _PORTIONS,
                "            if word.incarnation < self.incarnation - START_NANOSECONDS:\n"
                "                known.base",
                "            if True:\n                known.base",
            ),
            (
                _PORTIONS,
                "            if word.incarnation < self.incarnation - START_NANOSECONDS:\n"
                "                known.base",
                "            if False:\n                known.base",
            ),
            (
                _PORTIONS,
                "                    found.append((host, incarnation, start, before))\n",
                "                    pass\n",
            ),
            (
                _PORTIONS,
                "elif host not in self._reached and known.budget(start) > 0:",
                "elif False:",
            ),
            (
                _PORTIONS,
                "if incarnation < self.incarnation and (start, tokens)",
                "if (start, tokens)",
            ),
            (_PORTIONS, "            elif used <= 0:\n", "            else:\n"),
        ),
    ),
    rule(
        "A budget's use is not lost when its period ends earlier on one host than on another.",
        f"{_TESTS}::test_a_budget_begins_anew_with_its_period_though_clocks_differ",
        f"{_TESTS}::test_a_period_that_began_elsewhere_leaves_the_former_ones_use",
        wrong=(
            (_PORTIONS, "self.earlier = (had.budget_start, had.budget_tokens)", "pass"),
            (_PORTIONS, "            used = max(used, self.earlier[1])\n", "            pass\n"),
            (_PORTIONS, "            budget = 0.0  # its", "            pass  # its"),
            (_ALLOWANCE, "return self.budget if self.budget_start == start else", "return"),
        ),
    ),
    rule(
        "A peer that lies harms no more than the key.",
        f"{_TESTS}::test_a_lying_peer_harms_no_more_than_the_key",
        f"{_TESTS}::test_a_peer_that_makes_hosts_up_takes_bounded_memory",
        wrong=(
            (_PORTIONS, "            0.0 <= number <= MOST\n", "            number <= MOST\n"),
            (_PORTIONS, "-MOST <= usage.tokens <= MOST", "usage.tokens <= MOST"),
            (_PORTIONS, "all(-MOST <= level <= MOST for level in word.levels)", "True"),
            (_PORTIONS, " and all(_is_bounded(one) for one in word.relayed)", ""),
            (_PORTIONS, "if len(self._heard) >= MOST_ABSENT:", "if False:"),
            (_PORTIONS, "0.0 <= start <= MOST and 0.0 < tokens <= MOST", "start >= 0"),
        ),
    ),
    rule(
        "What other hosts told counts at each request, and nobody confirms what was not sent.",
        _WIRED,
        f"{_OF_WORKERS}::test_requests_in_flight_hold_over_three_hosts",
        wrong=(
            (_ACCOUNTS, "others = others + portions.heard", "others = others"),
            (
                _ACCOUNTS,
                "            allowance = portions.allowance\n",
                "",
            ),
            (_OVER_HOSTS, "0.0 <= told.heard_sent <= now", "True"),
        ),
    ),
    rule(
        "What was used of a budget outlives the proxy of a host, by its file or by its peers.",
        _WIRED,
        wrong=(
            (_ACCOUNTS, "remembered[key.id] = kept.hosts", "pass"),
            (_OVER_HOSTS, "meter.restore(recalled)", "pass"),
            (_OVER_HOSTS, "peers.incarnation + age", "peers.incarnation"),
        ),
    ),
    rule(
        "Limits hold over three hosts with several workers, one of which keeps them for its host.",
        _OF_WORKERS,
        wrong=(
            (_WORKERS, "return self._locked if self._hosts else None", "return None"),
            (_WORKERS, "            self._notes.send(KeyNote(host, told))\n", "            pass\n"),
            (
                _ROWS,
                "            total = own.usage + self.of_other_workers(key_id)\n"
                "            others =",
                "            total = own.usage\n            others =",
            ),
            (_ROWS, "now > self._ledger.kept_at + STALE_SECONDS", "False"),
            (_ACCOUNTS, "            siblings = self.over_hosts.of_other_workers(key_id)\n", ""),
            (_WORKERS, "if is_keeper and self._keeper is None:", "if False:"),
        ),
    ),
    rule(
        "Another worker that keeps the limits begins with what was used and told before.",
        _OF_WORKERS,
        "tests/core/keys/test_rates.py",
        wrong=(
            (_ROWS, "return told, Usage(*row[:_TOLD])", "return NO_USAGE, Usage(*row[:_TOLD])"),
            (_ROWS, "return told, Usage(*row[:_TOLD])", "return told, NO_USAGE"),
            (_RATES, "min(bucket.level, level + (now", "max(bucket.level, level + (now"),
        ),
    ),
    rule(
        "A clock that was set back makes no host unheard.",
        f"{_OF_WORKERS}::test_a_clock_that_was_set_back_makes_no_host_unheard",
        f"{_OF_WORKERS}::test_a_peer_cannot_use_up_the_numbers_of_incarnations",
        wrong=(
            (_OVER_HOSTS, "        self._outlive(peers, told, now)\n", ""),
            (
                _OVER_HOSTS,
                "KeyPeers(peers.host, later + 1, now)",
                "KeyPeers(peers.host, later - 1, now)",
            ),
            (_OVER_HOSTS, "time.time_ns() + _LATEST_NANOSECONDS", "2**63"),
        ),
    ),
    rule(
        "Device time of a replica is split between the clients of all hosts.",
        _USAGE,
        wrong=(
            (_PEER_REQUEST, "            use.engine_seconds += flight.engine_seconds\n", ""),
            (
                _PEER_REQUEST,
                "use_of(record.key_id)",
                'use_of("")',
            ),
            (
                _PEER_REQUEST,
                'asked.key if asked.key in state.keys.ids else ""',
                "asked.key",
            ),
            (
                _STREAM,
                "            flight.replica = None\n",
                "            flight.replica = None\n            flight.engine_seconds += 1.0\n",
            ),
        ),
    ),
    rule(
        "A request over a hop is in the report of usage once, at the host that was asked.",
        _USAGE,
        wrong=(
            (
                _PEER_REQUEST,
                "record.count_replica(replica, seconds, flight)",
                "record.count(self._state.metrics, seconds, flight, replica)",
            ),
            (
                _EXCHANGE,
                "        record.count(state.metrics, seconds, self.flight, replica)\n",
                "",
            ),
            (
                _EXCHANGE,
                "settle(receipt, float(self.record.charge.tokens))",
                "settle(receipt, 0.0)",
            ),
        ),
    ),
)
