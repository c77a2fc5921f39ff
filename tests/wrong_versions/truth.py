"""Certificates that speak of other figures than the true ones."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_PLANNER: Final = "partitiond/planner"
_CHECK: Final = f"{_PLANNER}/check/certificate.py"
_CHOICES: Final = "partitiond/core/plan_choices.py"
_MOVES: Final = "tests/planner/test_moves.py"
_NEXT: Final = f"{_PLANNER}/next_best.py"
_OBJECTIVES: Final = f"{_PLANNER}/exact/objectives.py"
_INSTANCE: Final = f"{_PLANNER}/instance.py"
_TESTS: Final = "tests/planner/test_truth.py"
_SCALE_BOUND: Final = f"{_PLANNER}/scale_bound.py"
_WEIGHTED: Final = f"{_PLANNER}/weighted.py"
_PRIORITIES: Final = f"{_PLANNER}/priorities.py"
_BY_CLASS: Final = f"{_PLANNER}/by_class.py"
_SCALE: Final = f"{_PLANNER}/scale.py"
_LOADS: Final = f"{_PLANNER}/kernels/loads.py"
_DEMAND: Final = f"{_PLANNER}/market/demand.py"
_VALUE: Final = f"{_PLANNER}/market/value.py"
_PRICING: Final = f"{_PLANNER}/kernels/pricing.py"
_COVERS: Final = f"{_PLANNER}/kernels/covers.py"
_CHOOSE: Final = f"{_PLANNER}/market/choose.py"
_FACTOR: Final = f"{_PLANNER}/market/factor.py"
_COMPLETE: Final = f"{_PLANNER}/complete.py"
_MISSING: Final = "return max(0.0, wanted - rates.get(need.name, 0.0))"

TRUTH: Final[tuple[Rule, ...]] = (
    rule(
        "The integers are rounded outwards: rates up, shares and demands down, memory not at all.",
        _TESTS,
        wrong=(
            (
                f"{_PLANNER}/types.py",
                "return up(item.candidate.capacity_req_per_s, item.units, option.level)",
                "return up(item.candidate.capacity_req_per_s, item.units, option.level) - 1",
            ),
            (f"{_PLANNER}/needs.py", "max(1, down(rate, units))", "max(1, down(rate, units) + 1)"),
            (_INSTANCE, "down(c.busy, SHARE_SCALE)", "down(c.busy, SHARE_SCALE) + 1"),
            (_INSTANCE, "usable_bytes(d) // grain * grain", "usable_bytes(d) // 2**26 * 2**26"),
        ),
    ),
    rule(
        "A bound is that which was proven, and no plan beats it.",
        _TESTS,
        wrong=(
            (
                f"{_PLANNER}/certify.py",
                "own_bound, best = _bound(instance, found), _best(instance, found, own)",
                "own_bound, best = own, _best(instance, found, own)",
            ),
            (
                f"{_PLANNER}/certify.py",
                "return found.bound * (1 + GRAIN)",
                "return found.bound * (1 - 1e-5)",
            ),
            (
                f"{_PLANNER}/sites.py",
                "implied = -(-need.survive_rate * len(domains) // (len(domains) - 1))",
                "implied = -(-need.survive_rate * 2 * len(domains) // (len(domains) - 1))",
            ),
        ),
    ),
    rule(
        "A whole device gives way to a memory share that needs no more of anything.",
        _TESTS,
        wrong=(
            (_INSTANCE, "        c.ttft_p95_seconds, c.tpot_p95_seconds,\n", ""),
            (
                _INSTANCE,
                "        c.ttft_p95_seconds, c.tpot_p95_seconds,\n",
                "        c.tpot_p95_seconds,\n",
            ),
            (_INSTANCE, "it.busy, it.cores, it.host_bytes,", "it.busy, it.cores,"),
        ),
    ),
    rule(
        "The checker refuses a cost from which a model is left out that would fit.",
        _TESTS,
        wrong=(
            (
                _CHECK,
                "if smallest or (proof.objective in shares and own > 0):",
                "if proof.objective in shares and own > 0:",
            ),
            (
                _CHECK,
                "if any(_surely_fits(d, device) for device in plan.devices):",
                "if any(_surely_fits(d, device) for device in plan.devices[:0]):",
            ),
            (
                _CHECK,
                "placed = {p.model for p in plan.placements}\n    rated = any(",
                "placed = {u.model for u in plan.unplaced}\n    rated = any(",
            ),
        ),
    ),
    rule(
        "What is missing is said in true figures.",
        _TESTS,
        wrong=(
            (f"{_PLANNER}/explain.py", _MISSING, f"{_MISSING} * 1.01"),
            (f"{_PLANNER}/explain.py", _MISSING, "return wanted"),
            (
                f"{_PLANNER}/explain.py",
                _MISSING,
                "return round(max(0.0, wanted - rates.get(need.name, 0.0)), 3)",
            ),
        ),
    ),
    rule(
        "The exact model counts every size and every priority for what it is worth.",
        _TESTS,
        wrong=(
            (
                _OBJECTIVES,
                "full = option.max_items * instance.rate(item, option)",
                "full = instance.rate(item, option)",
            ),
            (
                _OBJECTIVES,
                "best[index] = max(best.get(index, 0), full)",
                "best[index] = min(best.get(index, full), full)",
            ),
            (_OBJECTIVES, "OBJECTIVE_STEPS: Final = 10**8", "OBJECTIVE_STEPS: Final = 10**4"),
        ),
    ),
    rule(
        "Each price of a move names the best of the plans found, with a bound for few moves.",
        "tests/core/test_plan_choices.py",
        wrong=(
            (_CHOICES, "few = priced - price * moves", "few = priced + price * moves"),
            (_CHOICES, "few = math.ceil(few - ", "few = math.floor(few - "),
            (_CHOICES, "return max(own, few)", "return max(own, priced)"),
            (_CHOICES, "low = max(low, more / steeper)", "low = more / steeper"),
            (_CHOICES, "most = best if one.against else best_allowed", "most = best"),
        ),
    ),
    rule(
        "What moves buy names no plan with an outage, none within a budget that it breaks, and no "
        "bound that one of them beats.",
        f"{_MOVES}::test_a_plan_with_an_outage_is_not_among_those_that_moves_buy",
        f"{_MOVES}::test_a_plan_beyond_the_budget_is_told_and_wins_at_no_price",
        f"{_MOVES}::test_the_checker_refuses_wrong_choices",
        wrong=(
            (f"{_PLANNER}/nearest.py", "if speaks >= OUTAGE:", "if speaks > OUTAGE:"),
            (f"{_PLANNER}/nearest.py", "value, moves, Against.MOVE_BUDGET)", "value, moves)"),
            (_CHECK, "if other.moves <= one.moves and sign", "if other.moves < one.moves and sign"),
        ),
    ),
    rule(
        "At the price that is told for it, the next best plan costs what the plan costs.",
        "tests/planner/test_next_best.py",
        wrong=(
            (_NEXT, "kind, now - lead / more))", "kind, now + lead / more))"),
            (_NEXT, "found = [one for one in found if one.kinds != mine.kinds]", ""),
            (_NEXT, "_, kind, price = min(found)", "_, kind, price = max(found)"),
            (_NEXT, "o.price_per_hour < least and o.devices", "o.devices"),
        ),
    ),
    rule(
        "The bound on the common factor follows from prices, whatever they are.",
        "tests/planner/test_scale_bound.py",
        wrong=(
            (_SCALE_BOUND, "return left / cost if", "return 0.98 * left / cost if"),
            (_SCALE_BOUND, "max(0.0, float(each.min()))", "max(0.0, float(each.max()))"),
            (_SCALE_BOUND, "(best * problem.group_count).tolist()", "best.tolist()"),
            (
                _SCALE_BOUND,
                "number = min(float(prices.number[position]), cheapest)",
                "number = float(prices.number[position])",
            ),
            (
                _SCALE_BOUND,
                "if number > 0 else need.max_replicas))",
                "if number > 0 else 0))",
            ),
            (_SCALE_BOUND, "    bound = min(bounds)\n", "    bound = min(bounds[:1])\n"),
        ),
    ),
    rule(
        "That not all can be served is proven by prices, and by no status.",
        "tests/planner/test_scale_bound.py",
        _TESTS,
        wrong=(
            (_WEIGHTED, "            result = self._largest_part()\n", "            pass\n"),
            (_WEIGHTED, "self.wanted.append((row, 1.0))", "pass"),
            (
                _SCALE_BOUND,
                "        self.infeasible = status == model_builder.SolveStatus.INFEASIBLE\n",
                "",
            ),
        ),
    ),
    rule(
        "The highest priority decides first, and what is proven is proven of each.",
        "tests/planner/test_priorities.py",
        wrong=(
            (_PRIORITIES, "            return 1 if a > b else -1\n", "            continue\n"),
            (_PRIORITIES, "EQUAL: Final = 1e-6", "EQUAL: Final = 0.2"),
            (
                _PRIORITIES,
                "        if proven:\n            held",
                "        if True:\n            held",
            ),
            (_BY_CLASS, "        kept.append((models,", "        [].append((models,"),
            (f"{_PLANNER}/needs.py", "lift[priority] = factor / usual", "lift[priority] = 1.0"),
            (f"{_PLANNER}/nearest.py", "lexicographic(values_of(packing)), ", ""),
            (
                f"{_PLANNER}/certify.py",
                " and all(p.bound <= p.value * (1 + PROVEN) for p in by_priority)",
                "",
            ),
            (
                _CHECK,
                "        if value - p.bound > slack and not behind:\n",
                "        if value > p.bound + 1e9 and not behind:\n",
            ),
            (_CHECK, "p.bound > slack and not behind:\n", "p.bound > slack:\n"),
            (_CHECK, "        if abs(value - p.value) > slack:\n", "        if p.value < 0:\n"),
            (
                _CHECK,
                "if proof.status is Status.OPTIMAL and p.bound - value > slack:",
                "if proof.status is Status.FEASIBLE and p.bound - value > slack:",
            ),
        ),
    ),
    rule(
        "After a stop nothing is begun that takes long.",
        "tests/planner/test_stopping.py",
        wrong=(
            (_SCALE, "if self.stop() or self.ask(", "if self.ask("),
            (_SCALE, "        if self.stop() or (self.best", "        if (self.best"),
            (_SCALE, "        if self.stop():\n            return True\n", ""),
            (f"{_PLANNER}/members.py", "        if stop():\n            break\n", ""),
        ),
    ),
    rule(
        "A device's level of interference follows from what it holds, and each replica's worth "
        "from what all on the device then get.",
        "tests/planner/test_loads.py",
        wrong=(
            (_LOADS, "if count == 0 or level == now:", "if True:"),
            (_LOADS, "top = max(crowd, state", "top = min(crowd, state"),
            (
                _LOADS,
                "    if lower >= 0:\n        _relevel(",
                "    if lower < 0:\n        _relevel(",
            ),
            (_LOADS, "bears = max(crowd, state.devices[d, CROWD]), min(", "bears = crowd, min("),
        ),
    ),
    rule(
        "What a loss of a host leaves is counted by the host that gives most.",
        "tests/planner/test_improve.py::test_enough_is_left_when_a_host_is_lost",
        wrong=(
            (_LOADS, "rate, held = max(rate, mine), max(held, count)", "rate, held = mine, count"),
            (_LOADS, "data.models[m, LEFT] - rate + lost", "data.models[m, LEFT] - rate"),
            (_LOADS, "mine, count = mine + more, count + number", "pass"),
        ),
    ),
    rule(
        "No plan is better than what any prices of replicas prove.",
        "tests/planner/test_market.py",
        wrong=(
            (
                _DEMAND,
                "exact = -(-int(self.offer_rate[offer]) * CELLS //",
                "exact = (int(self.offer_rate[offer]) * CELLS //",
            ),
            (_DEMAND, "np.minimum(found.value, self._if_split(offer))", "0.9 * found.value"),
            (
                _VALUE,
                "most, best = max(most, bound), max(best, worth)",
                "most, best = worth, worth",
            ),
            (_VALUE, "*(value * self.classes.count), pools]", "*(value * self.classes.count)]"),
            (_VALUE, "value = value - price *", "value = value + 0 *"),
        ),
    ),
    rule(
        "No set of a device is worth more than its bound, and none that is worth more than the "
        "floor is missed.",
        "tests/planner/test_pricing.py",
        wrong=(
            (
                _PRICING,
                "    if bound <= floor:\n        return none",
                "    if bound <= 2 * floor:\n        return none",
            ),
            (
                _PRICING,
                "            total += rest * min(most[i], room.items)",
                "            total += rest",
            ),
            (_PRICING, "            better += most[j]", "            better += room.items"),
        ),
    ),
    rule(
        "The best covering set is found among the entries that waste little.",
        "tests/planner/test_cover_kernels.py",
        wrong=(
            (_COVERS, "good = unit * cells + waste <= known + slack", "good = False"),
            (_COVERS, "good = (each - unit) * cells - waste >= known - slack", "good = False"),
            (_COVERS, "waste = price[i] - unit * cell[i]", "waste = price[i] + unit * cell[i]"),
        ),
    ),
    rule(
        "A plan chosen among sets keeps what hosts have and what models ask for.",
        "tests/planner/test_market.py",
        wrong=(
            (_CHOOSE, "min(1.0, part) if market.as_cost else part", "2.0 * part"),
            (
                _CHOOSE,
                "classes = [model.add_linear_constraint(ub=float(max(0, n)))",
                "classes = [model.add_linear_constraint(ub=float(2 * n))",
            ),
            (_CHOOSE, "if packing.fits(d, item, option, company=False):", "if True:"),
        ),
    ),
    rule(
        "No plan of a vast fleet has a larger factor than prices of rates prove.",
        "tests/planner/test_vast_scale.py",
        wrong=(
            (_FACTOR, "price = np.where(self.target > 0, price, 0.0)", "price = price + 0.0"),
            (_FACTOR, "[*(value * self.market.classes.count), *pool]", "[*value, *pool]"),
            (
                _FACTOR,
                "[*(value * self.market.classes.count), *pool]",
                "value * self.market.classes.count",
            ),
            (f"{_PLANNER}/vast_scale.py", "BEYOND: Final = 1 + 1e-5", "BEYOND: Final = 1.0"),
        ),
    ),
    rule(
        "While the search is compiled, what a lost device held is placed beside what stays.",
        "tests/planner/test_complete.py",
        wrong=(
            (_COMPLETE, "if not load.items or option == load.option:", "if True:"),
            (_COMPLETE, "option is None or not _keeps", "option is None or _keeps"),
            (_COMPLETE, "lacks and there < need.max_replicas", "there < need.min_replicas"),
            (
                f"{_PLANNER}/portfolio.py",
                "needed=not staying_items(watch.instance)",
                "needed=True",
            ),
        ),
    ),
)
