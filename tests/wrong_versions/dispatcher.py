"""The dispatcher that proxy and simulators drive, and how they drive it."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_DISPATCH: Final = "partitiond/core/dispatch/dispatcher.py"
_PLACES: Final = "partitiond/core/dispatch/places.py"
_QUEUE: Final = "partitiond/core/dispatch/fair_queue.py"
_FLEET: Final = "partitiond/simulated/fleet/dispatch.py"
_INDEX: Final = "partitiond/simulated/fleet/places.py"
_TESTS: Final = "tests/core/dispatch/test_dispatcher.py"
_SAME: Final = "tests/simulated/replay/test_same_as_proxy.py"

DISPATCHER: Final[tuple[Rule, ...]] = (
    rule(
        "Who finds no place in the queue, or too late a one, is told of what is before it.",
        _TESTS,
        wrong=(
            (_DISPATCH, "late = refuse_too_late(ahead, ", "late = refuse_too_late(0, "),
            (
                _DISPATCH,
                "return self.places.waiting_elsewhere()[1] + self.queue.ahead(",
                "return self.queue.ahead(",
            ),
            (
                _DISPATCH,
                "refuse_full(len(self.queue) + elsewhere, ahead, limits)",
                "refuse_full(len(self.queue), ahead, limits)",
            ),
            (
                _DISPATCH,
                "refuse_full(len(self.queue) + elsewhere, ahead, limits)",
                "refuse_full(len(self.queue) + elsewhere, 0, limits)",
            ),
            (
                _DISPATCH,
                "max_wait_seconds=min(self.route.max_wait_seconds, request.max_wait_seconds),",
                "max_wait_seconds=self.route.max_wait_seconds,",
            ),
            (
                _DISPATCH,
                "            self._told.append((displaced, self._refuse_full(ahead, limits)))\n",
                "            pass\n",
            ),
            (
                _DISPATCH,
                "            elsewhere = self.places.waiting_elsewhere()[1]\n",
                "            elsewhere = 0\n",
            ),
        ),
    ),
    rule(
        "Who is held for a replica that is coming pays when it starts, and once.",
        _TESTS,
        wrong=(
            (_DISPATCH, "                if not has_paid:\n", "                if False:\n"),
            (_DISPATCH, "                if not has_paid:\n", "                if True:\n"),
            (_QUEUE, "entry in self._aside or entry in self._owing)", "entry in self._owing)"),
            (_QUEUE, "                if entry in self._owing:\n", "                if False:\n"),
            (_QUEUE, "        self._owing.discard(entry)\n", ""),
        ),
    ),
    rule(
        "A retry goes first, is not refused for the queue, and is paid for once.",
        _TESTS,
        wrong=(
            (_DISPATCH, "if again or not self.queue:", "if not self.queue:"),
            (
                _DISPATCH,
                "        if not again:\n            ahead =",
                "        if entry:\n            ahead =",
            ),
            (
                _DISPATCH,
                "                if not again:\n                    share",
                "                if chosen:\n                    share",
            ),
            (
                _DISPATCH,
                "self.places.join(self.queue, entry, self._most, again=again)",
                "self.places.join(self.queue, entry, self._most, again=False)",
            ),
            (
                _DISPATCH,
                "return self.places.has_another_for(request)",
                "return self._serves",
            ),
            (_DISPATCH, "            request.tried,\n", ""),
        ),
    ),
    rule(
        "Who can wait for the replica that is coming does, in order; who cannot is told when.",
        _TESTS,
        wrong=(
            (
                _DISPATCH,
                "if not request.held and self._holds and not request.tried:",
                "if not request.held and not request.tried:",
            ),
            (
                _DISPATCH,
                "request.max_wait_seconds) - waited_seconds",
                "request.max_wait_seconds)",
            ),
            (_DISPATCH, "for entry, has_paid in reversed(held):", "for entry, has_paid in held:"),
            (
                _DISPATCH,
                "return request.held and not request.tried and self._comes_back",
                "return request.held",
            ),
            (
                _DISPATCH,
                "retry_after = soon if soon > 0 else self.route.retry_after_seconds",
                "retry_after = self.route.retry_after_seconds",
            ),
            (
                _DISPATCH,
                "service_seconds=self.service.seconds if moves else 0.0,",
                "service_seconds=self.service.seconds,",
            ),
            (
                _DISPATCH,
                "return self._serves or (request.held and self._comes_back)",
                "return self._serves or request.held",
            ),
            (
                _DISPATCH,
                "return coming and self.route.holds and not self._removed",
                "return coming and not self._removed",
            ),
            (
                _DISPATCH,
                "        if self._serves:\n            elsewhere",
                "        if entry:\n            elsewhere",
            ),
            (
                _DISPATCH,
                "            self.turned_away += int(self._holds)\n            return",
                "            return",
            ),
        ),
    ),
    rule(
        "Who has left is told nothing, and is out of the queue.",
        _TESTS,
        wrong=(
            (
                _DISPATCH,
                "            if request.entry is entry:  # it has not left meanwhile\n",
                "            if request:\n",
            ),
            (
                _DISPATCH,
                "        request.entry = None\n        return self.queue.discard(entry)",
                "        request.entry = None\n        return entry in self.queue",
            ),
            (
                _DISPATCH,
                "                if outcome is not entry:\n"
                "                    request.entry = None\n",
                "                request.entry = None\n",
            ),
            (
                _DISPATCH,
                "        if entry not in self.queue:\n            return False\n",
                "",
            ),
            (_DISPATCH, "        started.item.entry = None\n", ""),
        ),
    ),
    rule(
        "What a request takes, and the pace of replicas, are as told.",
        _TESTS,
        wrong=(
            (_DISPATCH, "if len(self.places.loads()) > 1:", "if self.places.loads():"),
            (_DISPATCH, "if len(self.places.loads()) > 1:", "if not self.places.loads():"),
            (
                _DISPATCH,
                "            cost = request.cost if each is None else each\n",
                "            cost = request.cost\n",
            ),
            (
                _DISPATCH,
                "            request.cost if self._each is None else self._each,\n",
                "            request.cost,\n",
            ),
            (_DISPATCH, "        self.service = self.service.observe(seconds)\n", ""),
        ),
    ),
    rule(
        "Proxy and simulators decide the same.",
        _SAME,
        wrong=(
            (_INDEX, "if slow or request.tried or request.prefer:", "if request.tried:"),
            (_INDEX, "        return self._everyone\n", "        return self.replicas\n"),
            (_INDEX, "        elif replicas:\n            loads.append(Full(self._slots))\n", ""),
            (
                _INDEX,
                "            if share >= 1.0:\n                break\n",
                "            if share > 0.0:\n                return replicas\n",
            ),
            (_FLEET, "        self.dispatcher.slowness.forget(replica.replica_id)\n", ""),
            (
                _FLEET,
                "        self.dispatcher.changed(self.clock.now, route=route)\n"
                "        self._go_on()\n",
                "        self.dispatcher.changed(self.clock.now, route=route)\n",
            ),
        ),
    ),
    rule(
        "A place is taken where there is room, of replicas that may be chosen.",
        _TESTS,
        wrong=(
            (
                _PLACES,
                "return only if admits(only, cost) and is_eligible(only, request.tried) else None",
                "return only if admits(only, cost) else None",
            ),
            (
                _PLACES,
                "return only if admits(only, cost) and is_eligible(only, request.tried) else None",
                "return only if is_eligible(only, request.tried) else None",
            ),
            (
                _PLACES,
                "            self.add(taken[1], taken[0].item)\n",
                "            pass\n",
            ),
            (
                _PLACES,
                "        return any(not load.draining for load in self.loads())\n",
                "        return any(not load.ejected for load in self.loads())\n",
            ),
        ),
    ),
)
