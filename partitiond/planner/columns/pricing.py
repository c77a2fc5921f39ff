"""Prices a device exactly: the set of replicas that is worth most, of what one way to run it holds.

Compiled with the proxy (`partitiond.native`); uncompiled it is the same, and much slower.

A set fits if it fits a grid of cells (shares of SMs, MIG memory slices, or memory in coarse steps),
memory to the byte, cores, a load with a limit for each number of replicas, and in mode MIG a table
of the sets that can be placed. A model takes replicas until its demand is served; the last of them
is worth only what was missing.

1. A dynamic program over the models for cells and number; memory and load have multipliers, found
   by a few Polyak steps and kept from call to call. A model adds nothing, one replica that serves
   it all, or any number of replicas of less than a third plus up to three of a third or more: a
   relaxation. It yields an upper bound, and a table for every suffix of the models.
2. A depth-first search over the models with these tables as bounds. The bound that is returned
   holds also if the search is cut short.
"""

from typing import Final, final

from librt.vecs import append, vec
from mypy_extensions import i64

NONE: Final = -1e30
MOST: Final = 1024
"""Replicas that a device can hold at most."""
MOST_SERVED: Final = 600_000
"""Numbers in what the collected sets serve at most: 30,000 sets of 10 models. Chosen."""
GRAIN: Final = 1e-12
"""Relative difference that only results from the order in which floats are summed."""


@final
class Way:
    """What one way to run a device holds. Entries are possible replicas, sorted by model.

    Args:
        model: (n,) of each entry.
        cells, memory, load, cores: (n,) what each entry takes: cells of the grid, bytes of the
            device (in mode MIG compute slices), load, and cores of the device.
        pools: (n, 2) flattened, cores and bytes that each entry takes of what a host shares.
        code: (n,) what each entry adds to the number of a MIG set.
        part: (n,) part of its model's demand that each entry serves.
        grid, room, core_room: cells, bytes (or slices) and cores of the device.
        limit: largest sum of loads for k replicas, at index k; the last index is the most replicas.
        table: for every number of a MIG set whether it can be placed; empty without MIG.
    """

    def __init__(
        self,
        model: list[int],
        cells: list[int],
        memory: list[float],
        load: list[float],
        cores: list[float],
        pools: list[float],
        code: list[int],
        part: list[float],
        grid: int,
        room: float,
        core_room: float,
        limit: list[float],
        table: list[int],
    ) -> None:
        self.size: i64 = len(model)
        self.model = vec[i64](model)
        self.cells = vec[i64](cells)
        self.memory = vec[float](memory)
        self.load = vec[float](load)
        self.cores = vec[float](cores)
        self.pools = vec[float](pools)
        self.code = vec[i64](code)
        self.part = vec[float](part)
        self.grid: i64 = grid
        self.room = room
        self.core_room = core_room
        self.limit = vec[float](limit)
        self.most: i64 = len(limit) - 1
        self.table = vec[i64](table)
        self.per_memory = 0.0
        self.per_load = 0.0
        """Multipliers of memory and load at the last call."""


@final
class ReplicaPrices:
    """What replicas are worth.

    Args:
        served: (m,) worth of all of a model's open demand.
        each: (m,) worth of a replica beyond that; may be below 0.
        open_part: (m,) part of each demand that is still open.
        lacks: (m,) replicas missing to the least number. A model with neither takes no replica.
        core, host: price of a core and of a byte of the host.
    """

    def __init__(
        self,
        served: list[float],
        each: list[float],
        open_part: list[float],
        lacks: list[float],
        core: float,
        host: float,
    ) -> None:
        self.served = vec[float](served)
        self.each = vec[float](each)
        self.open_part = vec[float](open_part)
        self.lacks = vec[float](lacks)
        self.core = core
        self.host = host


@final
class Pricer:
    """Prices ways. It owns the tables that all calls share.

    Attributes:
        value: value of the set found by the last call, or 0.
        chosen: positions of its entries with repetitions; empty if no set is worth more.
        nodes: branches of the last call.
        sets: positions of the entries of each set collected, until the caller empties it.

    Args:
        avoid: (m, m) flattened, 1 if two models never share a device; empty if there are none.
        models: m.
    """

    def __init__(self, avoid: list[int], models: int) -> None:
        self.avoid = vec[i64](avoid)
        self.models: i64 = models
        self.value = 0.0
        self.chosen: list[int] = []
        self.nodes: i64 = 0
        self.planes = vec[float]()
        """Tables end to end: the best worth with n replicas in x cells, at n * (cells + 1) + x."""
        self.gain = vec[float]()
        self.part = vec[float]()
        self.cost = vec[float]()
        self.first = vec[i64]()
        self.end = vec[i64]()
        self.rank = vec[float]()
        self.groups: i64 = 0
        self.plane_of = vec[i64]()
        """Table of the models from each one on."""
        self.stages: i64 = 0
        self.base = vec[i64]()
        self.source = vec[i64]()
        self.item_from = vec[i64]()
        """Of the stage that made each table: the table without an item, the one that an item is
        added to (its own if any number is), and its first item."""
        self.items: i64 = 0
        self.item_cells = vec[i64]()
        self.item_entry = vec[i64]()
        self.item_worth = vec[float]()
        self.best_worth = vec[float]()
        self.best_entry = vec[i64]()
        self.current = vec[i64]([0 for _ in range(MOST)])
        self.found = vec[i64]([0 for _ in range(MOST)])
        self.found_size: i64 = 0
        self.per_memory = 0.0
        self.per_load = 0.0
        self.slope_memory = 0.0
        self.slope_load = 0.0
        self.node_limit: i64 = 0
        self.collects = False
        self.sets: list[list[int]] = []
        self.lacks = vec[float]()
        self.serves = vec[float]()
        """What each collected set serves of every model, and its replicas that are lacking."""
        self.recent = vec[i64]()
        """Collected sets, roughly in the order in which they last served no less than another."""
        self.mine = vec[float]([0.0 for _ in range(2 * models)])

    def collect(
        self, way: Way, prices: ReplicaPrices, above: float, steps: int, node_limit: int
    ) -> bool:
        """Add all sets worth more than `above` to `sets`, but those that serve no more of any model
        than one that is there; return False if a limit ended it."""
        if not self.sets:
            self.serves, self.recent = vec[float](), vec[i64]()
        self.collects = True
        self.price(way, prices, above, above, steps, node_limit)
        self.collects = False
        return self.nodes <= node_limit

    def _collect(self, way: Way, count: i64) -> None:
        """Add the first entries of `current`, unless a set that is there serves no less."""
        mine, serves, recent, both = self.mine, self.serves, self.recent, 2 * self.models
        i: i64 = 0
        while i < both:
            mine[i] = 0.0
            i += 1
        i = 0
        while i < count:
            entry = self.current[i]
            k = way.model[entry]
            mine[k] = min(1.0, mine[k] + way.part[entry])
            k += self.models
            mine[k] = min(self.lacks[way.model[entry]], mine[k] + 1.0)
            i += 1
        n: i64 = 0
        kept: i64 = len(self.sets)
        while n < kept:
            known = recent[n]
            i = 0
            while i < both and serves[known * both + i] >= mine[i] * (1.0 - GRAIN):
                i += 1
            if i == both:
                self.nodes += n // 8
                to = n // 2
                while n > to:
                    recent[n] = recent[n - 1]
                    n -= 1
                recent[to] = known
                return
            n += 1
        self.nodes += kept // 8
        if (kept + 1) * both > MOST_SERVED:
            self.nodes = self.node_limit + 1
            return
        i = 0
        while i < both:
            serves = append(serves, mine[i])
            i += 1
        self.serves, self.recent = serves, append(recent, kept)
        self.sets.append([self.current[i] for i in range(count)])

    def price(
        self,
        way: Way,
        prices: ReplicaPrices,
        above: float,
        skip: float,
        steps: int,
        node_limit: int,
        models: int = 0,
    ) -> float:
        """Return an upper bound on the value of any set; the best set above `above` is in `chosen`.

        Args:
            above: sets worth no more than this are not searched for.
            skip: nothing is searched for if the bound is at most this.
            steps: steps to find better multipliers.
            node_limit: limit on branches; the bound holds in any case.
            models: the bound is of sets of so many models alone, the most promising; 0 for all.
        """
        self.value = 0.0
        self.chosen = []
        self.nodes = 0
        self._weigh(way, prices)
        self.lacks = prices.lacks
        self._order(way)
        if 0 < models < self.groups:
            self.groups = models
        self.node_limit = node_limit
        self.per_memory = way.per_memory
        self.per_load = way.per_load
        bound = self._program(way)
        fresh = True
        memory, load, step = self.per_memory, self.per_load, 0.1
        toward_memory, toward_load = self.slope_memory, self.slope_load
        unit = 0.0
        if way.limit[1 if way.most > 1 else way.most] < 1e18:
            unit = 1.0 / max(1.0, way.limit[1 if way.most > 1 else way.most])
        scale = 1.0 / way.room if way.room < 1e18 else 0.0
        tried: i64 = 0
        while tried < steps and bound > skip:
            tried += 1
            by_memory = toward_memory * scale
            if memory <= 0.0 and by_memory > 0.0:
                by_memory = 0.0
            by_load = toward_load * unit
            if load <= 0.0 and by_load > 0.0:
                by_load = 0.0
            norm = by_memory * by_memory + by_load * by_load
            if norm < 1e-14:
                break
            target = max(bound * (1.0 - step), above, 0.0)
            length = (bound - target) / norm
            self.per_memory = max(0.0, memory - length * by_memory * scale)
            self.per_load = max(0.0, load - length * by_load * unit)
            tighter = self._program(way)
            fresh = tighter < bound - GRAIN
            if fresh:
                bound, memory, load = tighter, self.per_memory, self.per_load
                toward_memory, toward_load = self.slope_memory, self.slope_load
            else:
                step *= 0.5
                toward_memory = 0.5 * (toward_memory + self.slope_memory)
                toward_load = 0.5 * (toward_load + self.slope_load)
        way.per_memory, way.per_load = memory, load
        if bound <= skip or node_limit <= 0:
            return bound
        if not fresh:
            self.per_memory, self.per_load = memory, load
            self._program(way)
        self.found_size = 0
        threshold = self._search(way, 0, -1, 0.0, way.grid, 0, 0.0, 0.0, 0.0, 0.0, above)
        k: i64 = 0
        while k < self.found_size:
            self.chosen.append(self.found[k])
            k += 1
        self.value = threshold if self.found_size > 0 else 0.0
        return min(bound, threshold) if self.nodes <= node_limit else bound

    def _weigh(self, way: Way, prices: ReplicaPrices) -> None:
        """Fill in what each entry brings, costs, and serves of the open demand."""
        if len(self.gain) < way.size:
            self.gain = vec[float]([0.0 for _ in range(way.size)])
            self.part = vec[float]([0.0 for _ in range(way.size)])
            self.cost = vec[float]([0.0 for _ in range(way.size)])
            self.first = vec[i64]([0 for _ in range(way.size + 1)])
            self.end = vec[i64]([0 for _ in range(way.size + 1)])
            self.rank = vec[float]([0.0 for _ in range(way.size + 1)])
        gain, part, cost = self.gain, self.part, self.cost
        e: i64 = 0
        while e < way.size:
            m = way.model[e]
            wanted, lacks = prices.open_part[m], prices.lacks[m]
            served = min(1.0, way.part[e] / wanted) if wanted > 0.0 else 0.0
            gain[e] = served * prices.served[m]
            cost[e] = prices.core * way.pools[2 * e] + prices.host * way.pools[2 * e + 1]
            cost[e] -= prices.each[m]
            if lacks > 0.0:
                served = min(served, 1.0 / lacks) if served > 0.0 else 1.0 / lacks
            elif wanted <= 0.0:
                cost[e] = 0.0  # nobody wants another replica
            part[e] = max(GRAIN, served)
            e += 1

    def _order(self, way: Way) -> None:
        """Find the models of use, the most promising ones first."""
        groups: i64 = 0
        first, end, rank = self.first, self.end, self.rank
        per_cell = 1.0 / float(way.grid) if way.grid > 0 else 0.0
        per_byte = 0.5 / way.room if way.room < 1e18 else 0.0
        limit = way.limit[1 if way.most > 1 else way.most]
        per_load = 0.3 / max(1.0, limit) if limit < 1e18 else 0.0
        e: i64 = 0
        while e < way.size:
            last = e
            best = 0.0
            model = way.model[e]
            while last < way.size and way.model[last] == model:
                value = self.gain[last] - self.cost[last]
                if value > 0.0:
                    takes = 0.02 + per_cell * float(way.cells[last]) + per_byte * way.memory[last]
                    best = max(best, value / (takes + per_load * way.load[last]))
                last += 1
            if best > 0.0:
                j = groups
                groups += 1
                while j > 0 and rank[j - 1] < best:
                    rank[j] = rank[j - 1]
                    first[j] = first[j - 1]
                    end[j] = end[j - 1]
                    j -= 1
                rank[j] = best
                first[j] = e
                end[j] = last
            e = last
        self.groups = groups

    def _program(self, way: Way) -> float:
        """Fill in the tables; return the Lagrangian's value, and set its slopes."""
        row = way.grid + 1
        size = row * (way.most + 1)
        self._make_room(way, size)
        planes, worth = self.planes, self.best_worth
        i: i64 = 0
        while i < size:
            planes[i] = 0.0 if i < row else NONE
            i += 1
        self.stages = 0
        self.items = 0
        plane: i64 = 0
        self.plane_of[self.groups] = 0
        g = self.groups - 1
        while g >= 0:
            kinds = self._best_of(way, g)
            old = plane
            if kinds >= 2:
                if kinds & 8:
                    plane = self._begin(plane, -1)
                    self._offer(row, 3)
                    self._fill(way, plane)
                # Two replicas of half the demand, or three of a third.
                t: i64 = 0
                while t < 3:
                    if kinds & 4 or (kinds & 2 and t < 2):
                        plane = self._begin(plane, plane)
                        if t < 2:
                            self._offer(row, 1)
                        self._offer(row, 2)
                        self._fill(way, plane)
                    t += 1
            if kinds & 1:
                plane = self._begin(plane, old)
                self._offer(row, 0)
                self._fill(way, plane)
            self.plane_of[g] = plane
            e = self.first[g]
            while e < self.end[g]:
                x = way.cells[e]
                if x < row:
                    worth[x] = worth[x + row] = worth[x + 2 * row] = worth[x + 3 * row] = 0.0
                e += 1
            g -= 1
        best, most_n = NONE, 0
        n: i64 = 0
        while n <= way.most:
            value = planes[plane * size + n * row + way.grid]
            value += self.per_memory * way.room + self.per_load * way.limit[n]
            if value > best:
                best = value
                most_n = n
            n += 1
        self._trace(way, plane, most_n)
        return best

    def _make_room(self, way: Way, size: i64) -> None:
        most: i64 = 5 * self.groups + 1
        if len(self.base) < most:
            self.base = vec[i64]([0 for _ in range(most)])
            self.source = vec[i64]([0 for _ in range(most)])
            self.item_from = vec[i64]([0 for _ in range(most + 1)])
            self.plane_of = vec[i64]([0 for _ in range(most)])
        if len(self.planes) < most * size:
            self.planes = vec[float]([0.0 for _ in range(most * size)])
        if len(self.item_cells) < 5 * way.size:
            self.item_cells = vec[i64]([0 for _ in range(5 * way.size)])
            self.item_entry = vec[i64]([0 for _ in range(5 * way.size)])
            self.item_worth = vec[float]([0.0 for _ in range(5 * way.size)])
        if len(self.best_worth) < 4 * (way.grid + 1):
            self.best_worth = vec[float]([0.0 for _ in range(4 * (way.grid + 1))])
            self.best_entry = vec[i64]([0 for _ in range(4 * (way.grid + 1))])

    def _best_of(self, way: Way, group: i64) -> i64:
        """Find a model's best entry of each kind and number of cells; return the kinds as bits.

        Kinds: 0 serves all that is open, 1 at least half of it, 2 at least a third, 3 less.
        """
        worth, entry, cells = self.best_worth, self.best_entry, way.cells
        gain, cost, part, memory, load = self.gain, self.cost, self.part, way.memory, way.load
        per_memory, per_load, row = self.per_memory, self.per_load, way.grid + 1
        kinds: i64 = 0
        e = self.first[group]
        end = self.end[group]
        while e < end:
            w = gain[e] - cost[e] - per_memory * memory[e] - per_load * load[e]
            x = cells[e]
            if w > 0.0 and x < row:
                p = part[e]
                if p >= 1.0:
                    kinds |= 1
                elif p >= 0.5:
                    kinds |= 2
                    x += row
                elif p >= 1.0 / 3:
                    kinds |= 4
                    x += 2 * row
                else:
                    kinds |= 8
                    x += 3 * row
                if w > worth[x]:
                    worth[x] = w
                    entry[x] = e
            e += 1
        return kinds

    def _begin(self, base: i64, source: i64) -> i64:
        """Begin a stage; return its table. Source -1: any number of its items may be added."""
        self.stages += 1
        self.base[self.stages] = base
        self.source[self.stages] = self.stages if source < 0 else source
        self.item_from[self.stages] = self.items
        return self.stages

    def _offer(self, row: i64, kind: i64) -> None:
        """Add the best entries of a kind to the stage, without those that others beat."""
        worth = self.best_worth
        top = 0.0
        x: i64 = kind * row
        end = x + row
        while x < end:
            if worth[x] > top:
                top = worth[x]
                self.item_cells[self.items] = x - kind * row
                self.item_entry[self.items] = self.best_entry[x]
                self.item_worth[self.items] = top
                self.items += 1
            x += 1

    def _fill(self, way: Way, plane: i64) -> None:
        """Fill in the table of the stage begun last."""
        h = self.planes
        row = way.grid + 1
        most = way.most
        size = row * (most + 1)
        out = plane * size
        base = self.base[plane] * size
        source = self.source[plane] * size
        i: i64 = 0
        while i < size:
            h[out + i] = h[base + i]
            i += 1
        k = self.item_from[plane]
        while k < self.items:
            worth = self.item_worth[k]
            cells = self.item_cells[k]
            n: i64 = 1
            while n <= most:
                p = out + n * row + cells
                end = out + (n + 1) * row
                q = source + (n - 1) * row
                while p < end:
                    value = h[q] + worth
                    if value > h[p]:
                        h[p] = value
                    p += 1
                    q += 1
                n += 1
            k += 1

    def _trace(self, way: Way, plane: i64, n: i64) -> None:
        """Set the slopes: what the best set leaves of memory and load."""
        h = self.planes
        row = way.grid + 1
        size = row * (way.most + 1)
        memory, load = way.room, way.limit[n]
        x = way.grid
        while plane > 0:
            value = h[plane * size + n * row + x]
            if value == h[self.base[plane] * size + n * row + x]:
                plane = self.base[plane]
                continue
            source = self.source[plane]
            k = self.item_from[plane]
            end = self.items if plane == self.stages else self.item_from[plane + 1]
            while k < end:
                cells = self.item_cells[k]
                if cells <= x and n > 0:
                    before = h[source * size + (n - 1) * row + x - cells]
                    if before + self.item_worth[k] == value:
                        break
                k += 1
            memory -= way.memory[self.item_entry[k]]
            load -= way.load[self.item_entry[k]]
            x -= self.item_cells[k]
            n -= 1
            plane = source
        self.slope_memory, self.slope_load = memory, load

    def _search(
        self,
        way: Way,
        group: i64,
        at: i64,
        served: float,
        cells: i64,
        count: i64,
        memory: float,
        load: float,
        cores: float,
        value: float,
        threshold: float,
    ) -> float:
        """Try all sets of the models from `group` on, beside those of `current`.

        Returns the value above which sets are searched for from now on.
        """
        h, gain, cost, part = self.planes, self.gain, self.cost, self.part
        cells_of, memory_of, load_of, cores_of = way.cells, way.memory, way.load, way.cores
        row = way.grid + 1
        most = way.most
        limit, limits, per_load = way.limit[count + 1], way.limit, self.per_load
        left_memory = (way.room - memory) * self.per_memory
        rules = len(way.table) > 0 or len(self.avoid) > 0
        j = group
        while j < self.groups:
            if self.nodes > self.node_limit:
                return threshold
            table = self.plane_of[j] * row * (most + 1) + cells
            more = NONE
            n: i64 = count
            while n <= most:
                reach = h[table] + per_load * (limits[n] - load)
                if reach > more:
                    more = reach
                table += row
                n += 1
            if value + left_memory + more <= threshold:
                return threshold  # nothing better among the models from here on
            e = at if at >= 0 else self.first[j]
            end = self.end[j]
            while e < end:
                brings = gain[e] - cost[e]
                if (
                    brings <= 0.0
                    or cells_of[e] > cells
                    or memory + memory_of[e] > way.room
                    or load + load_of[e] > limit
                    or cores + cores_of[e] > way.core_room
                    or (served > 0.0 and part[e] >= 1.0)
                    or (rules and not self._may(way, e, count))
                ):
                    e += 1
                    continue
                self.nodes += 1
                self.current[count] = e
                if served + part[e] > 1.0 and served > 0.0:
                    brings = gain[e] * (1.0 - served) / part[e] - cost[e]
                if value + brings > threshold and self.collects:
                    self._collect(way, count + 1)
                elif value + brings > threshold:
                    threshold = value + brings
                    self.found_size = count + 1
                    k: i64 = 0
                    while k <= count:
                        self.found[k] = self.current[k]
                        k += 1
                if count + 1 < most:
                    full = served + part[e] >= 1.0 - GRAIN
                    threshold = self._search(
                        way,
                        j + 1 if full else j,
                        -1 if full else e,
                        0.0 if full else served + part[e],
                        cells - cells_of[e],
                        count + 1,
                        memory + memory_of[e],
                        load + load_of[e],
                        cores + cores_of[e],
                        value + brings,
                        threshold,
                    )
                e += 1
            j += 1
            at = -1
            served = 0.0
        return threshold

    def _may(self, way: Way, entry: i64, count: i64) -> bool:
        """Whether an entry may join the first `count` entries of `current`."""
        if len(way.table) > 0:
            code = way.code[entry]
            i: i64 = 0
            while i < count:
                code += way.code[self.current[i]]
                i += 1
            if code >= len(way.table) or way.table[code] == 0:
                return False
        if len(self.avoid) > 0:
            j: i64 = 0
            mine = way.model[entry] * self.models
            while j < count:
                if self.avoid[mine + way.model[self.current[j]]] == 1:
                    return False
                j += 1
        return True
