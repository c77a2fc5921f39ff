"""Ruins and recreates: empties a few devices, serves the lost demand again, keeps good results.

Compiled ahead of time (`partitiond.native`); uncompiled it is the same, and much slower.

A step takes all or some replicas off a few devices. It then gives models what they lack, one
replica after the other: the entry with the best gain for its price, on the device that it fills
best. Worse answers are kept with the probability exp(-loss / temperature) (simulated annealing
over whole steps). The idea is that of Schrimpf et al. 2000; as in slack induction by string
removals, Christiaens and Vanden Berghe 2020, few devices are ruined, and a step never looks at
the whole answer again.

For cost objectives, the devices in use may cost no more than a budget, and the search looks for an
answer within it that lacks nothing. Each such answer is kept, and the budget drops below its cost.
"""

import math
from typing import Final, final

from librt.vecs import vec
from mypy_extensions import i64

from partitiond.planner.kernels.loads import EMPTY, Data, Loads, zeros

TINY: Final = 1e-9
WHOLE: Final = 0.6
"""Probability that a step empties devices rather than take single replicas from them. Chosen."""
TOURNAMENT: Final = 12
"""Number of devices from which the one worth least is given up. Chosen, not measured."""
FIXED: Final = 1e15
"""More than the contents of any device are worth: marks devices that cannot be given up."""
ATTEMPTS: Final = 10_000
"""Limit on attempts to empty devices at once until the budget is met. Chosen, not measured."""
FULLER: Final = 0.05
"""Share of its gain that a replica gives up for a device with one resource less free. Chosen."""
PICKS: Final = 6
"""Number of devices, of which the one that keeps the fewest running replicas is emptied. Chosen."""
BLINK: Final = 0.01
"""Probability that a device is skipped, so that equal steps end differently. Chosen."""
WORD: Final = 0xFFFFFFFF
WORDS: Final = 4294967296.0
NO_BUDGET: Final = 1 << 62


@final
class Annealing:
    """One search, which goes from answer to answer.

    Args:
        data: the problem.
        seed: of all random choices.
        by_cost: True to find answers that lack nothing at a falling cost, False to maximise the
            worth of all models together.
        runs: items that run on each device and could stay there.
        most_gone: limit on these replicas that leave their device, in sum; -1 for no limit.

    Attributes:
        state: the current answer; `best` is the best so far.
        found: whether `best` is an answer; by cost it must lack nothing.
        budget: limit on the devices' cost; drops below the cost of each complete answer.
        temperature: loss at which one step in e is kept.
        noise: relative perturbation of prices within a step.
        wanting: models with unserved demand that a step looks at.
        outside: devices looked at beside the ruined ones; all if there are no more.
        steps: number of steps so far.
    """

    def __init__(
        self, data: Data, seed: int, by_cost: bool, runs: list[list[int]], most_gone: int
    ) -> None:
        self.data = data
        self.state = Loads(data)
        self.best = Loads(data)
        self.by_cost = by_cost
        self.found = False
        self.budget: i64 = NO_BUDGET
        self.temperature = 0.0
        self.noise = 0.0
        self.wanting: i64 = 0
        self.outside: i64 = 0
        self.steps: i64 = 0
        self.scans: i64 = 0
        self.random: i64 = (seed * 0x9E3779B1 + 0x85EBCA6B) % WORD or 1
        self.listed: i64 = 0
        """Models to serve again: the first ones of `list`, with the keys that order them."""
        self.list = zeros(data.models)
        self.key = vec[float]([0.0 for _ in range(data.models)])
        self.list_mark = zeros(data.models)
        """(M,) step in which a model was last put on the list."""
        self.seen = zeros(len(data.group_cost))
        """(G,) last scan that looked at an empty device of the group."""
        self.runs = [vec[i64](items) for items in runs]
        self.gone = zeros(data.devices)
        """(D,) replicas that have left each device."""
        self.most_gone: i64 = most_gone
        self.merit = 0.0
        self.chosen: i64 = -1
        self.chosen_device: i64 = -1
        self.chosen_level: i64 = 0
        """The replica that a scan would add."""

    def uniform(self) -> float:
        """Return a number in 0..1, by xorshift32: a seed gives the same numbers everywhere."""
        x = self.random
        x ^= (x << 13) & WORD
        x ^= x >> 17
        x ^= (x << 5) & WORD
        self.random = x
        return float(x) / WORDS

    def below(self, count: i64) -> i64:
        """Return a whole number in 0..count - 1."""
        return i64(self.uniform() * float(count))

    def gone_from(self, d: i64) -> i64:
        """Count the replicas that run on device d and are not on it in this answer."""
        runs = self.runs[d]
        state, data = self.state, self.data
        first = d * data.most_held
        end = first + state.count[d]
        stays: i64 = 0
        i: i64 = 0
        while i < len(runs):
            # Equal replicas are matched one by one: the k-th of a kind with the k-th.
            rank: i64 = 0
            j: i64 = 0
            while j < i:
                if runs[j] == runs[i]:
                    rank += 1
                j += 1
            j = first
            while j < end:
                if data.entry_item[state.items[j]] == runs[i]:
                    if rank == 0:
                        stays += 1
                        break
                    rank -= 1
                j += 1
            i += 1
        return len(runs) - stays

    def count_gone(self) -> i64:
        """Count anew what has left each device; return the sum."""
        total: i64 = 0
        d: i64 = 0
        while d < self.data.devices:
            self.gone[d] = self.gone_from(d)
            total += self.gone[d]
            d += 1
        return total

    def search(self, steps: i64) -> bool:
        """Take some steps; return whether `best` improved."""
        state = self.state
        improved = False
        limited = self.most_gone >= 0
        total = self.count_gone() if limited else 0
        number: i64 = 0
        while number < steps:
            number += 1
            self.steps += 1
            state.touches = 0
            before = state.worth
            cost = state.cost
            self.listed = 0
            self._ruin()
            self._list_wanting(self.wanting)
            self._order()
            self._serve_listed()
            if state.parted():
                state.undo()
                continue
            loss = before - state.worth
            worse = loss > TINY
            after: i64 = 0
            if limited:
                after = self._gone_now(total)
                # If nothing is gained, fewer moves or a lower cost are better.
                worse = worse or (loss >= -TINY and (after > total or state.cost > cost))
                if after > max(self.most_gone, total):
                    state.undo()
                    continue
            if worse and self._refuses(loss):
                state.undo()
                continue
            if limited:
                self._leave()
                total = after
                if total > self.most_gone:
                    continue
            if self.take_in():
                improved = True
                if self.by_cost:
                    self._shrink()
                    total = self.count_gone() if limited else 0
        return improved

    def take_in(self) -> bool:
        """Keep the current answer if it is better than the best; return whether it is."""
        state = self.state
        if self.by_cost:
            better = state.worth >= -TINY and state.cost <= self.budget
        else:
            better = not self.found or state.worth > self.best.worth + TINY
        if better:
            self.best.copy_from(state)
            self.found = True
            if self.by_cost:
                self.budget = state.cost - 1
        return better

    def _refuses(self, loss: float) -> bool:
        return -self.temperature * math.log(self.uniform()) < max(loss, TINY)

    def _gone_now(self, total: i64) -> i64:
        """Return how many replicas have left after a step, which changed the devices touched."""
        at: i64 = 0
        while at < self.state.touches:
            d = self.state.touched[at]
            total += self.gone_from(d) - self.gone[d]
            at += 1
        return total

    def _leave(self) -> None:
        """Count anew what has left the devices that the step has touched."""
        at: i64 = 0
        while at < self.state.touches:
            d = self.state.touched[at]
            self.gone[d] = self.gone_from(d)
            at += 1

    def _ruin(self) -> None:
        """Empty a few devices, or take some replicas off more; list their models."""
        state = self.state
        devices = self.data.devices
        whole = self.uniform() < WHOLE
        count = 1 + self.below(4) if whole else 2 + self.below(6)
        count = min(devices, count)
        attempt: i64 = 0
        while attempt < 3 * count and state.touches < count:
            attempt += 1
            d = self.below(devices) if self.most_gone < 0 else self._least_kept()
            if state.mark[d] == self.steps:
                continue
            state.note(d, self.steps)
            if whole:
                i = state.count[d] - 1
                while i >= 0:
                    self._take(d, i)
                    i -= 1
                continue
            i = self.below(2)
            while i >= 0:
                if state.count[d] > 0:
                    self._take(d, self.below(state.count[d]))
                i -= 1

    def _least_kept(self) -> i64:
        """Of a few random devices, return the one that keeps the fewest running replicas."""
        chosen: i64 = 0
        least: i64 = NO_BUDGET
        pick: i64 = 0
        while pick < PICKS:
            d = self.below(self.data.devices)
            stays = self.state.count[d] - self.gone[d] + self.below(3)
            if stays < least:
                chosen = d
                least = stays
            pick += 1
        return chosen

    def _take(self, d: i64, i: i64) -> None:
        """Remove one replica, and list its model once."""
        m = self.data.entry_model[self.state.items[d * self.data.most_held + i]]
        self.state.remove(d, i)
        self._list(m)

    def _list(self, m: i64) -> None:
        if self.list_mark[m] != self.steps and self.listed < self.data.models:
            self.list_mark[m] = self.steps
            self.list[self.listed] = m
            self.listed += 1

    def _list_wanting(self, wanting: i64) -> None:
        """List some of the models that lack something, from a random one on, or all in order."""
        models = self.data.models
        m = self.below(models) if wanting < models else 0
        most = min(models, self.listed + wanting)
        k: i64 = 0
        while k < models and self.listed < most:
            if self.lacks(m):
                self._list(m)
            m = m + 1 if m + 1 < models else 0
            k += 1

    def lacks(self, m: i64) -> bool:
        """Return whether more of model m would be worth anything."""
        state, data = self.state, self.data
        if state.number[m] >= data.most[m]:
            return False
        if (
            state.number[m] < data.least[m]
            or state.gets[m] < data.need[m]
            or (data.spread[m] >= 0 and state.falls_short(m))
        ):
            return True
        return data.slope[m] > 0.0 and state.gets[m] < data.limit[m]

    def _order(self) -> None:
        """Sort the listed models: by merit, by size, or at random."""
        data = self.data
        how = self.below(4)
        i: i64 = 0
        while i < self.listed:
            m = self.list[i]
            key = self.uniform()
            if how == 0:
                key = data.merit[m] * (1.0 + 0.3 * key)
            elif how == 1:
                key = data.largest[m] * (1.0 + 0.3 * key)
            elif how == 2:
                key = data.merit[m] * data.largest[m] * (1.0 + 0.3 * key)
            self.key[i] = key
            i += 1
        self._sort()

    def _sort(self) -> None:
        """Sort the listed models by falling key; they are few, and usually nearly sorted."""
        i: i64 = 1
        while i < self.listed:
            m = self.list[i]
            key = self.key[i]
            j = i - 1
            while j >= 0 and self.key[j] < key:
                self.list[j + 1] = self.list[j]
                self.key[j + 1] = self.key[j]
                j -= 1
            self.list[j + 1] = m
            self.key[j + 1] = key
            i += 1

    def _serve_listed(self) -> None:
        """Serve the listed models; for goodput the least numbers of all come before any more."""
        at: i64 = 0
        while at < self.listed and not self.by_cost:
            self._serve(self.list[at], self.data.least[self.list[at]])
            at += 1
        at = 0
        while at < self.listed:
            self._serve(self.list[at], NO_BUDGET)
            at += 1

    def _serve(self, m: i64, most: i64) -> None:
        """Give model m up to `most` replicas, as long as the answer gains by them and one fits.

        Models that lose by this are listed to be served as well.
        """
        state, data = self.state, self.data
        while state.number[m] < most and self.lacks(m):
            self._scan(m)
            d = self.chosen_device
            if d < 0:
                return
            state.note(d, self.steps)
            slower = state.count[d] > 0 and state.level[d] != self.chosen_level
            state.add(d, self.chosen, self.chosen_level)
            if slower:
                i = d * data.most_held
                end = i + state.count[d] - 1
                while i < end:
                    n = data.entry_model[state.items[i]]
                    if n != m and self.lacks(n):
                        self._list(n)
                    i += 1

    def _scan(self, m: i64) -> None:
        """Choose entry, device and level of model m's replica with the most gain for its price.

        Looks at the devices of this step and some others. A device with less room left counts a
        little more. Device -1 if none can hold a replica from which the answer gains.
        """
        state, data = self.state, self.data
        self.scans += 1
        start = self.below(data.devices)
        room = self.budget - state.cost
        self.merit = 0.0
        self.chosen_device = -1
        end = min(data.devices, self.outside)
        k = -state.touches
        while k < end:
            d = state.touched[-k - 1] if k < 0 else start + k
            if d >= data.devices:
                d -= data.devices
            k += 1
            q = state.site[d]
            if q != EMPTY:
                self._consider(m, d, q, room)
                continue
            group = data.device_group[d]
            # Empty devices of a group are alike, so only the first one is looked at.
            if self.seen[group] == self.scans or data.group_cost[group] > room:
                continue
            self.seen[group] = self.scans
            q = data.first_site[data.device_class[d]]
            while q < data.first_site[data.device_class[d] + 1]:
                self._consider(m, d, q, room - data.group_cost[group])
                q += 1

    def _consider(self, m: i64, d: i64, q: i64, room: i64) -> None:
        """Choose a replica of model m on device d at site q if it is better than the chosen one."""
        state, data = self.state, self.data
        k = data.model_site[m * (data.places + 1) + q]
        end = data.model_site[m * (data.places + 1) + q + 1]
        if k == end or state.count[d] >= data.max_items[q]:
            return
        if data.tied[m] >= 0 and state.lacks_company(m, d):
            return
        left = 0.0
        r: i64 = 0
        while r < data.resources:
            free = data.capacity[q * data.resources + r] - state.used[d * data.resources + r]
            if data.least_use[(m * data.places + q) * data.resources + r] > free:
                return
            left += data.pull[q * data.resources + r] * float(free)
            r += 1
        now = state.worth_of(m, d, 0, 0)
        lowest: i64 = 0
        if state.count[d] > 0:
            lowest = state.level[d]
        discount = 1.0 - FULLER * left
        while k < end:
            e = data.model_entry[k]
            k += 1
            hope = state.worth_of(m, d, data.rates[e * data.levels + lowest], 1) - now
            share = (1.0 + self.noise * self.uniform()) * discount / data.price[e]
            if hope <= TINY or hope * share <= self.merit or data.entry_cost[e] > room:
                continue
            level = state.fits(d, e)
            if level < 0 or (self.temperature > 0.0 and self.uniform() < BLINK):
                continue
            gain = state.worth_beside(d, e, level)
            if gain > TINY and gain * share > self.merit:
                self.merit = gain * share
                self.chosen = e
                self.chosen_device = d
                self.chosen_level = level

    def _shrink(self) -> None:
        """Empty devices, those worth least first, until the rest costs no more than the budget."""
        state, data = self.state, self.data
        attempt: i64 = 0
        while attempt < ATTEMPTS:
            attempt += 1
            chosen: i64 = -1
            least = FIXED
            pick: i64 = 0
            while pick < TOURNAMENT:
                pick += 1
                d = self.below(data.devices)
                worth = 0.0 if state.count[d] > 0 else FIXED
                i = d * data.most_held
                end = i + state.count[d]
                while i < end:
                    e = state.items[i]
                    worth += data.price[e]
                    if data.tied[data.entry_model[e]] >= 0:  # others may have to be near it
                        worth += FIXED
                    i += 1
                if worth < least:
                    chosen = d
                    least = worth
            if chosen >= 0:
                state.clear(chosen)
            if state.cost <= self.budget:
                return

    def construct(self) -> None:
        """Give all models what they lack, as far as there is room, the largest models first."""
        data = self.data
        self.steps += 1
        self.listed = 0
        self._list_wanting(data.models)
        i: i64 = 0
        while i < self.listed:
            m = self.list[i]
            self.key[i] = data.largest[m] if self.by_cost else data.merit[m]
            i += 1
        self._sort()
        listed = self.listed
        i = 0
        while i < listed and not self.by_cost:
            self._serve_apart(self.list[i], data.least[self.list[i]], i)
            i += 1
        i = 0
        while i < listed:
            self._serve_apart(self.list[i], NO_BUDGET, listed + i)
            i += 1
        self.state.touches = 0

    def _serve_apart(self, m: i64, most: i64, number: i64) -> None:
        """Serve a model in a step of its own, whose number no other step has."""
        steps = self.steps
        self.state.touches = 0
        self.steps = -1 - number
        self._serve(m, most)
        self.steps = steps
