"""Keeps the loads of all devices as arrays: what fits, adding, removing, undoing.

Compiled ahead of time (`partitiond.native`); uncompiled it is the same, and much slower.

A device is run in a sharing mode; its level of interference follows from what it holds. One more
replica may therefore slow down the replicas beside it: its worth is the gain of its model, less the
losses of the others. A change takes as many steps as there are replicas on the device.

`Data` is the problem and never changes during a search; `Loads` is one answer, and records what a
step has touched, so that a step that made things worse can be undone.

The worth of what a model gets is

    slope x min(rate, limit) - max(lacking[ceil(missing / cell)], short x (replicas missing))

as a replica brings both; and less the same once more for what would be missing if the fault domain
that serves most were lost, if the model has to survive that. For goodput, `slope` is the weight and
`lacking` is 0. For serving all demand at the least cost, `lacking` is the price of the cheapest
replicas that cover what is missing, so that the sum over all models says how much device capacity
is still to be found.
"""

from typing import Any, Final, final

from librt.vecs import vec
from mypy_extensions import i64

EMPTY: Final = -1
"""Site of a device that holds nothing."""
UP: Final = 0.999999
"""Rounds cells up, except for those that are whole apart from floating-point rounding."""
HIGHEST: Final = 1 << 30
"""More than any level."""


def flat_ints(array: Any) -> vec[i64]:
    """Return an array's numbers, row by row."""
    return vec[i64]([int(x) for x in array.ravel().tolist()])


def flat_floats(array: Any) -> vec[float]:
    """Return an array's numbers, row by row."""
    return vec[float]([float(x) for x in array.ravel().tolist()])


def zeros(count: int) -> vec[i64]:
    """Return that many zeros."""
    return vec[i64]([0 for _ in range(count)])


@final
class Data:
    """The problem; see `sites.Sites` for what is not explained here. Arrays lie row by row.

    Args:
        sites: the instance as arrays.
        needs: by name, what `annealing` computes for models.
        more: the same for entries, sites and pools.

    Attributes:
        limit: (M,) rate beyond which more is worth nothing.
        near: pairs of models, the first of which has to share its hosts with the second.
        tied: (M,) row of `Loads.on_host` of a model in such a pair; else -1.
        host_of: (D,) host of each device.
        spread: (M,) row of `domain_of` of a model that must survive a loss; else -1.
        left, left_number: (M,) rate and replicas that have to be left when a domain is lost.
        slope, short: (M,) worth of a unit of rate, and price of a missing replica.
        lacking: (M, cells) price of lacking that many cells of rate, `per_cell` cells a unit.
        merit: (M,) the most that a first replica is worth, relative to its price.
        largest: (M,) the price of the most expensive entry.
        price: (E,) what an entry takes of devices, in devices' cost.
        model_entry: (E,) entries by model and site.
        model_site: (M, Q + 1) offsets in `model_entry` of a model's entries at a site.
        least_use: (M, Q, R) the least that an entry of a model at a site takes.
        first_site: (C + 1,) first site of a class; a class of devices that hold nothing has none.
        pull: (Q, R) worth of one unit of a free resource, to tell which device is fuller.
        pool_start, pool_list: pools of device d are pool_list[pool_start[d]..[d + 1]].
        domain_of: (S, D) fault domain of each device, for models that must survive a loss.
    """

    def __init__(self, sites: Any, needs: dict[str, Any], more: dict[str, Any]) -> None:
        self.resources: i64 = sites.capacity.shape[1]
        self.places: i64 = sites.capacity.shape[0]
        self.levels: i64 = sites.limit_of.shape[1]
        self.kappas: i64 = sites.limit_of.shape[2]
        self.busy_row: i64 = sites.busy_limit.shape[1]
        self.devices: i64 = len(sites.device_group)
        self.models: i64 = len(sites.need_rate)
        self.most_held: i64 = max(1, int(sites.max_items.max(initial=1)))
        self.site_class = flat_ints(sites.site_class)
        self.max_items = flat_ints(sites.max_items)
        self.table = flat_ints(sites.table)
        self.table_size = flat_ints(sites.table_size)
        self.tables = flat_ints(sites.tables)
        self.capacity = flat_ints(sites.capacity)
        self.limit_of = flat_ints(sites.limit_of)
        self.busy_limit = flat_ints(sites.busy_limit)
        self.entry_item = flat_ints(sites.entry_item)
        self.entry_model = flat_ints(sites.entry_model)
        self.entry_site = flat_ints(sites.entry_site)
        self.entry_busy = flat_ints(sites.entry_busy)
        self.entry_kappa = flat_ints(sites.entry_kappa)
        self.entry_top = flat_ints(sites.entry_top)
        self.entry_code = flat_ints(sites.entry_code)
        self.entry_cost = flat_ints(sites.entry_cost)
        self.entry_use = flat_ints(sites.entry_use)
        self.entry_pool = flat_ints(sites.entry_pool)
        self.rates = flat_ints(sites.rates)
        self.need = flat_ints(sites.need_rate)
        self.least = flat_ints(sites.need_min)
        self.most = flat_ints(sites.need_max)
        self.has_avoid = bool(sites.avoid.any())
        self.avoid = flat_ints(sites.avoid)
        self.device_class = flat_ints(sites.device_class)
        self.device_group = flat_ints(sites.device_group)
        self.group_cost = flat_ints(sites.group_cost)
        self.limit = flat_ints(needs["limit"])
        self.near = flat_ints(needs["near"])
        self.tied = flat_ints(needs["tied"])
        self.host_of = flat_ints(more["host_of"])
        self.hosts: i64 = int(more["host_of"].max(initial=-1)) + 1
        self.spread = flat_ints(needs["spread"])
        self.left = flat_ints(needs["left"])
        self.left_number = flat_ints(needs["left_number"])
        self.slope = flat_floats(needs["slope"])
        self.short = flat_floats(needs["short"])
        self.per_cell = flat_floats(needs["per_cell"])
        self.merit = flat_floats(needs["merit"])
        self.largest = flat_floats(needs["largest"])
        self.cells: i64 = needs["lacking"].shape[1]
        self.lacking = flat_floats(needs["lacking"])
        self.price = flat_floats(more["price"])
        self.model_entry = flat_ints(more["model_entry"])
        self.model_site = flat_ints(more["model_site"])
        self.least_use = flat_ints(more["least_use"])
        self.first_site = flat_ints(more["first_site"])
        self.pull = flat_floats(more["pull"])
        self.pool_capacity = flat_ints(more["pool_capacity"])
        self.pool_kind = flat_ints(more["pool_kind"])
        self.pool_start = flat_ints(more["pool_start"])
        self.pool_list = flat_ints(more["pool_list"])
        self.domain_of = flat_ints(needs["domain_of"])
        self.domains: i64 = int(needs["domain_of"].max(initial=-1)) + 1


@final
class Loads:
    """One answer: the contents of each device, and the sums that tell what still fits.

    Attributes:
        site: (D,) site that a device is run as; EMPTY if it holds nothing.
        count: (D,) replicas on a device: the first ones of its row of `items`, (D, most) entries.
        level: (D,) level that a device is run at.
        crowd: (D,) the largest kappa on a device, as a position among all.
        bears: (D,) the highest level that all replicas on a device tolerate.
        used: (D, R) what is used of a device.
        gets, number: (M,) rate and number of replicas.
        pool: used amount of each pool.
        on_host: (rows of `tied`, hosts) replicas of a model on a host.
        cost: cost of devices in use plus the additional cost of their replicas.
        worth: sum over all models of the worth of what they get.
        touched: devices that the step has touched, the first `touches` of the list.
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        self.site = vec[i64]([EMPTY for _ in range(data.devices)])
        self.count = zeros(data.devices)
        self.busy = zeros(data.devices)
        self.code = zeros(data.devices)
        self.level = zeros(data.devices)
        self.crowd = zeros(data.devices)
        self.bears = zeros(data.devices)
        self.used = zeros(data.devices * data.resources)
        self.items = zeros(data.devices * data.most_held)
        self.gets = zeros(data.models)
        self.number = zeros(data.models)
        self.change = zeros(data.models)
        """(M,) rate that a pending change would add; 0 between changes."""
        self.pool = zeros(len(data.pool_capacity))
        self.domain_rate = zeros(len(data.domain_of) * data.domains)
        self.domain_number = zeros(len(data.domain_of) * data.domains)
        self.on_host = zeros(len(data.near) * data.hosts)
        self.cost: i64 = 0
        self.worth = 0.0
        self.touches: i64 = 0
        self.touched = zeros(data.devices)
        self.mark = vec[i64]([-HIGHEST for _ in range(data.devices)])
        """(D,) step in which a device was last recorded."""
        self.held = zeros(data.devices)
        self.held_items = zeros(data.devices * data.most_held)
        self.revalue()

    def copy_from(self, other: "Loads") -> None:
        """Become equal to another answer to the same problem."""
        self.site = other.site[:]
        self.count = other.count[:]
        self.busy = other.busy[:]
        self.code = other.code[:]
        self.level = other.level[:]
        self.crowd = other.crowd[:]
        self.bears = other.bears[:]
        self.used = other.used[:]
        self.items = other.items[:]
        self.gets = other.gets[:]
        self.number = other.number[:]
        self.pool = other.pool[:]
        self.domain_rate = other.domain_rate[:]
        self.domain_number = other.domain_number[:]
        self.on_host = other.on_host[:]
        self.cost = other.cost
        self.worth = other.worth

    def entries_on(self, d: i64) -> list[int]:
        """Return the entries on a device."""
        first = d * self.data.most_held
        return [self.items[first + i] for i in range(self.count[d])]

    def worth_of(self, m: i64, d: i64, more: i64, number: i64) -> float:
        """Return the worth of model m with `more` rate from `number` more replicas on device d."""
        data = self.data
        rate = self.gets[m] + more
        counted = data.limit[m]
        counted = min(counted, rate)
        value = data.slope[m] * float(counted)
        lacks = self._price_of_lack(m, data.need[m] - rate, data.least[m] - self.number[m] - number)
        if data.spread[m] >= 0:
            # Added, not the larger of both: a first replica alone survives no loss, and is a step.
            lost, lost_number = self._most_lost(m, d, more, number)
            lacks += self._price_of_lack(
                m,
                data.left[m] - rate + lost,
                data.left_number[m] - self.number[m] - number + lost_number,
            )
        return value - lacks

    def _price_of_lack(self, m: i64, missing: i64, short: i64) -> float:
        """Return the price of what model m lacks: of rate, or of replicas, the larger one."""
        data = self.data
        lacks = 0.0
        if missing > 0:
            cell = i64(float(missing) * data.per_cell[m] + UP)
            if cell >= data.cells:
                cell = data.cells - 1
            lacks = data.lacking[m * data.cells + cell]
        if short > 0:
            lacks = max(lacks, data.short[m] * float(short))
        return lacks

    def _most_lost(self, m: i64, d: i64, more: i64, number: i64) -> tuple[i64, i64]:
        """Return the most rate, and the most replicas, that one fault domain holds of model m."""
        data = self.data
        row = data.spread[m]
        here = data.domain_of[row * data.devices + d]
        rate: i64 = 0
        held: i64 = 0
        k: i64 = 0
        while k < data.domains:
            mine = self.domain_rate[row * data.domains + k]
            count = self.domain_number[row * data.domains + k]
            if k == here:
                mine += more
                count += number
            rate = max(rate, mine)
            held = max(held, count)
            k += 1
        return rate, held

    def falls_short(self, m: i64) -> bool:
        """Return whether too little of model m would be left if one fault domain were lost."""
        rate, held = self._most_lost(m, 0, 0, 0)
        data = self.data
        return self.gets[m] - rate < data.left[m] or self.number[m] - held < data.left_number[m]

    def gain_of(self, m: i64, d: i64, rate: i64, number: i64) -> float:
        """Return model m's gain in worth from `rate` more rate and `number` more replicas on d."""
        return self.worth_of(m, d, rate, number) - self.worth_of(m, d, 0, 0)

    def _give(self, m: i64, d: i64, rate: i64, number: i64) -> None:
        """Give model m `rate` more rate from `number` more replicas on device d."""
        self.worth += self.gain_of(m, d, rate, number)
        self.gets[m] += rate
        self.number[m] += number
        row = self.data.spread[m]
        if row >= 0:
            k = row * self.data.domains + self.data.domain_of[row * self.data.devices + d]
            self.domain_rate[k] += rate
            self.domain_number[k] += number
        row = self.data.tied[m]
        if row >= 0:
            self.on_host[row * self.data.hosts + self.data.host_of[d]] += number

    def _holds(self, m: i64, host: i64) -> bool:
        """Return whether a host holds a replica of model m, which is in a pair of `Data.near`."""
        return self.on_host[self.data.tied[m] * self.data.hosts + host] > 0

    def lacks_company(self, m: i64, d: i64) -> bool:
        """Return whether device d's host lacks a model that model m has to be near to."""
        data = self.data
        k: i64 = 0
        while k < len(data.near):
            if data.near[k] == m and not self._holds(data.near[k + 1], data.host_of[d]):
                return True
            k += 2
        return False

    def parted(self) -> bool:
        """Return whether what was touched leaves a model without one that it has to be near to."""
        data = self.data
        at: i64 = 0
        while at < self.touches:
            host = data.host_of[self.touched[at]]
            k: i64 = 0
            while k < len(data.near):
                if self._holds(data.near[k], host) and not self._holds(data.near[k + 1], host):
                    return True
                k += 2
            at += 1
        return False

    def _level_of(self, q: i64, count: i64, busy: i64, crowd: i64, lowest: i64, top: i64) -> i64:
        """Return the lowest level that holds `count` replicas with this load and kappa; or -1."""
        data = self.data
        level = lowest
        while level <= top and level < data.levels:
            row = data.limit_of[(q * data.levels + level) * data.kappas + crowd]
            if row >= 0 and busy <= data.busy_limit[row * data.busy_row + count]:
                return level
            level += 1
        return -1

    def fits(self, d: i64, e: i64) -> i64:
        """Return the level of device d with one more replica of entry e; -1 if it does not fit."""
        data = self.data
        q = data.entry_site[e]
        here = self.site[d]
        if here != q and (here != EMPTY or data.site_class[q] != data.device_class[d]):
            return -1
        count = self.count[d] + 1
        if count > data.max_items[q]:
            return -1
        r: i64 = 0
        while r < data.resources:
            used = self.used[d * data.resources + r] + data.entry_use[e * data.resources + r]
            if used > data.capacity[q * data.resources + r]:
                return -1
            r += 1
        if data.table[q] >= 0:
            code = self.code[d] + data.entry_code[e]
            if code >= data.table_size[q] or data.tables[data.table[q] + code] == 0:
                return -1
        k = data.pool_start[d]
        while k < data.pool_start[d + 1]:
            p = data.pool_list[k]
            drawn = self.pool[p] + data.entry_pool[2 * e + data.pool_kind[p]]
            if drawn > data.pool_capacity[p]:
                return -1
            k += 1
        if data.has_avoid and not self._welcome(d, data.entry_model[e]):
            return -1
        crowd = data.entry_kappa[e]
        top = data.entry_top[e]
        lowest: i64 = 0
        if count > 1:
            crowd = max(crowd, self.crowd[d])
            top = min(top, self.bears[d])
            lowest = self.level[d]
        return self._level_of(q, count, self.busy[d] + data.entry_busy[e], crowd, lowest, top)

    def _welcome(self, d: i64, m: i64) -> bool:
        data = self.data
        i = d * data.most_held
        end = i + self.count[d]
        while i < end:
            if data.avoid[m * data.models + data.entry_model[self.items[i]]] != 0:
                return False
            i += 1
        return True

    def worth_beside(self, d: i64, e: i64, level: i64) -> float:
        """Return the gain from one more replica of entry e on device d at the resulting level."""
        data = self.data
        m = data.entry_model[e]
        now = self.level[d]
        mine = data.rates[e * data.levels + level]
        if self.count[d] == 0 or level == now:
            return self.gain_of(m, d, mine, 1)
        self.change[m] = mine
        first = d * data.most_held
        end = first + self.count[d]
        i = first
        while i < end:
            row = self.items[i] * data.levels
            self.change[data.entry_model[self.items[i]]] += (
                data.rates[row + level] - data.rates[row + now]
            )
            i += 1
        total = self.gain_of(m, d, self.change[m], 1)
        self.change[m] = 0
        i = first
        while i < end:
            n = data.entry_model[self.items[i]]
            if self.change[n] != 0:
                total += self.gain_of(n, d, self.change[n], 0)
                self.change[n] = 0
            i += 1
        return total

    def _relevel(self, d: i64, level: i64) -> None:
        """Run a device at another level."""
        data = self.data
        now = self.level[d]
        if now == level:
            return
        i = d * data.most_held
        end = i + self.count[d]
        while i < end:
            e = self.items[i]
            row = e * data.levels
            self._give(data.entry_model[e], d, data.rates[row + level] - data.rates[row + now], 0)
            i += 1
        self.level[d] = level

    def _take(self, d: i64, e: i64, sign: i64) -> None:
        """Add (+1) or subtract (-1) the resources that one replica of entry e takes."""
        data = self.data
        r: i64 = 0
        while r < data.resources:
            self.used[d * data.resources + r] += sign * data.entry_use[e * data.resources + r]
            r += 1
        self.count[d] += sign
        self.busy[d] += sign * data.entry_busy[e]
        self.code[d] += sign * data.entry_code[e]
        k = data.pool_start[d]
        while k < data.pool_start[d + 1]:
            p = data.pool_list[k]
            self.pool[p] += sign * data.entry_pool[2 * e + data.pool_kind[p]]
            k += 1
        self.cost += sign * data.entry_cost[e]

    def add(self, d: i64, e: i64, level: i64) -> None:
        """Put a replica onto a device, which then runs at `level`, as returned by `fits`."""
        data = self.data
        count = self.count[d]
        crowd = data.entry_kappa[e]
        bears = data.entry_top[e]
        if count == 0:
            self.site[d] = data.entry_site[e]
            self.cost += data.group_cost[data.device_group[d]]
            self.level[d] = level
        else:
            self._relevel(d, level)
            crowd = max(crowd, self.crowd[d])
            bears = min(bears, self.bears[d])
        self.crowd[d] = crowd
        self.bears[d] = bears
        self.items[d * data.most_held + count] = e
        self._take(d, e, 1)
        self._give(data.entry_model[e], d, data.rates[e * data.levels + level], 1)

    def remove(self, d: i64, i: i64) -> None:
        """Take the i-th replica off a device; removing the last one closes the device."""
        data = self.data
        first = d * data.most_held
        e = self.items[first + i]
        level = self.level[d]
        self._give(data.entry_model[e], d, -data.rates[e * data.levels + level], -1)
        self._take(d, e, -1)
        count = self.count[d]
        self.items[first + i] = self.items[first + count]
        if count == 0:
            self._close(d)
            return
        self._measure(d)
        lower = self._level_of(self.site[d], count, self.busy[d], self.crowd[d], 0, level)
        if lower >= 0:
            self._relevel(d, lower)

    def _measure(self, d: i64) -> None:
        """Find the largest kappa on a device, and the highest level that all tolerate."""
        data = self.data
        crowd: i64 = 0
        bears: i64 = HIGHEST
        i = d * data.most_held
        end = i + self.count[d]
        while i < end:
            crowd = max(crowd, data.entry_kappa[self.items[i]])
            bears = min(bears, data.entry_top[self.items[i]])
            i += 1
        self.crowd[d] = crowd
        self.bears[d] = bears

    def _close(self, d: i64) -> None:
        self.site[d] = EMPTY
        self.cost -= self.data.group_cost[self.data.device_group[d]]

    def clear(self, d: i64) -> None:
        """Remove all replicas from a device."""
        data = self.data
        count = self.count[d]
        if count == 0:
            return
        level = self.level[d]
        first = d * data.most_held
        i: i64 = 0
        while i < count:
            e = self.items[first + i]
            self._give(data.entry_model[e], d, -data.rates[e * data.levels + level], -1)
            self._take(d, e, -1)
            i += 1
        self._close(d)

    def note(self, d: i64, step: i64) -> None:
        """Record device d as it is, once per step."""
        if self.mark[d] == step:
            return
        self.mark[d] = step
        at = self.touches
        self.touches += 1
        self.touched[at] = d
        self.held[at] = self.count[d]
        most = self.data.most_held
        i: i64 = 0
        while i < self.count[d]:
            self.held_items[at * most + i] = self.items[d * most + i]
            i += 1

    def undo(self) -> None:
        """Undo all changes since nothing was touched."""
        at: i64 = 0
        while at < self.touches:
            self.clear(self.touched[at])
            at += 1
        at = 0
        while at < self.touches:
            self._restore(at)
            at += 1
        self.touches = 0

    def _restore(self, at: i64) -> None:
        """Restore a device's recorded contents; the device is empty."""
        data = self.data
        d = self.touched[at]
        count = self.held[at]
        if count == 0:
            return
        first = d * data.most_held
        i: i64 = 0
        while i < count:
            e = self.held_items[at * data.most_held + i]
            self.items[first + i] = e
            self._take(d, e, 1)
            i += 1
        self._measure(d)
        q = data.entry_site[self.items[first]]
        level = self._level_of(q, count, self.busy[d], self.crowd[d], 0, self.bears[d])
        self.site[d] = q
        self.level[d] = level
        self.cost += data.group_cost[data.device_group[d]]
        i = 0
        while i < count:
            e = self.items[first + i]
            self._give(data.entry_model[e], d, data.rates[e * data.levels + level], 1)
            i += 1

    def revalue(self) -> None:
        """Sum the worth anew, against accumulated rounding."""
        self.worth = 0.0
        m: i64 = 0
        while m < self.data.models:
            self.worth += self.worth_of(m, 0, 0, 0)
            m += 1
