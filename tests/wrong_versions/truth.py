"""Certificates that speak of other figures than the true ones."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_PLANNER: Final = "partitiond/planner"
_CHECK: Final = f"{_PLANNER}/check/certificate.py"
_CHOICES: Final = "partitiond/core/plan/choices.py"
_MOVES: Final = "tests/planner/pack/test_moves.py"
_KINDS: Final = "partitiond/core/plan/kinds.py"
_NEXT: Final = f"{_PLANNER}/search/next_best.py"
_PORTFOLIO: Final = f"{_PLANNER}/search/portfolio.py"
_OBJECTIVES: Final = f"{_PLANNER}/exact/objectives.py"
_EXPLAIN: Final = f"{_PLANNER}/answers/explain.py"
_MODEL: Final = f"{_PLANNER}/answers/explain_model.py"
_ROOM: Final = f"{_PLANNER}/answers/room_for.py"
_POOLS: Final = f"{_PLANNER}/model/pools.py"
_INSTANCE: Final = f"{_PLANNER}/model/instance.py"
_TESTS: Final = "tests/planner/test_truth.py"
_POURS: Final = f"{_PLANNER}/bounds/placements_lp.py"
_PRICES: Final = f"{_PLANNER}/bounds/prices.py"
_PRIORITIES: Final = f"{_PLANNER}/search/priorities.py"
_QUESTIONS: Final = "tests/planner/answers/test_questions.py"
_RELAX: Final = f"{_PLANNER}/answers/relax.py"
_SCALE: Final = f"{_PLANNER}/search/scale.py"
_LOADS: Final = f"{_PLANNER}/kernels/loads.py"
_DEMAND: Final = f"{_PLANNER}/market/demand.py"
_VALUE: Final = f"{_PLANNER}/market/value.py"
_PRICING: Final = f"{_PLANNER}/kernels/pricing.py"
_COVERS: Final = f"{_PLANNER}/kernels/covers.py"
_CHOOSE: Final = f"{_PLANNER}/market/choose.py"
_FACTOR: Final = f"{_PLANNER}/market/factor.py"
_ADDING: Final = f"{_PLANNER}/pack/adding.py"
_COMPLETE: Final = f"{_PLANNER}/pack/complete.py"
_MEMBERS: Final = f"{_PLANNER}/pack/members.py"
_PACKING: Final = f"{_PLANNER}/pack/packing.py"
_MISSING: Final = "max(0.0, wanted - rates.get(need.name, 0.0))"

TRUTH: Final[tuple[Rule, ...]] = (
    rule(
        "The integers are rounded outwards: rates up, shares and demands down, memory not at all.",
        _TESTS,
        wrong=(
            (
                f"{_PLANNER}/model/types.py",
                "return up(item.candidate.capacity_req_per_s, item.units, level)",
                "return up(item.candidate.capacity_req_per_s, item.units, level) - 1",
            ),
            (
                f"{_PLANNER}/model/needs.py",
                "max(1, down(rate, units))",
                "max(1, down(rate, units) + 1)",
            ),
            (_INSTANCE, "down(c.busy, SHARE_SCALE)", "down(c.busy, SHARE_SCALE) + 1"),
            (_INSTANCE, "usable_bytes(d) // grain * grain", "usable_bytes(d) // 2**26 * 2**26"),
        ),
    ),
    rule(
        "A bound is that which was proven, and no plan beats it.",
        _TESTS,
        wrong=(
            (
                f"{_PLANNER}/answers/certify.py",
                "own_bound, best = _bound(instance, found), _best(instance, found, own)",
                "own_bound, best = own, _best(instance, found, own)",
            ),
            (
                f"{_PLANNER}/answers/certify.py",
                "return found.bound * (1 + GRAIN)",
                "return found.bound * (1 - 1e-5)",
            ),
            (
                f"{_PLANNER}/model/sites.py",
                "implied = -(-need.survive_rate * len(domains) // (len(domains) - 1))",
                "implied = -(-need.survive_rate * 2 * len(domains) // (len(domains) - 1))",
            ),
        ),
    ),
    rule(
        "A plan at its bound that misses least replicas is best only if none misses fewer.",
        "tests/planner/answers/test_certify.py",
        wrong=(
            (
                f"{_PLANNER}/answers/certify.py",
                "        proven = proven and found.status is Status.OPTIMAL\n",
                "        pass\n",
            ),
            (
                f"{_PLANNER}/answers/certify.py",
                "        proven = proven and found.status is Status.OPTIMAL\n",
                "        proven = False\n",
            ),
            (
                f"{_PLANNER}/answers/certify.py",
                "objective is Objective.MAX_GOODPUT and found.packing.short_replicas():",
                "objective.is_cost and found.packing.short_replicas():",
            ),
            (_EXPLAIN, "MAX_GOODPUT and found.packing.short_replicas()", "MAX_GOODPUT and False"),
            (
                f"{_PLANNER}/search/priorities.py",
                "not best.short_replicas() or found.status is Status.OPTIMAL",
                "not best.short_replicas()",
            ),
        ),
    ),
    rule(
        "A plan that a budget of moves leaves without a least replica has bounds of its own.",
        "tests/planner/search/test_priorities.py",
        wrong=(
            (_PORTFOLIO, "found.members, found.class_bounds = [chosen], {}", "pass"),
            (
                _PORTFOLIO,
                "found.members, found.class_bounds = [chosen], {}",
                "found.members = [chosen]",
            ),
            (_PORTFOLIO, "if chosen.packing.short_replicas() > short:", "if False:"),
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
        "tests/planner/check/test_certificate.py",
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
        "A model whose every size exceeds what its host has fits no device.",
        f"{_TESTS}::test_what_its_host_has_no_memory_for_fits_no_device",
        wrong=(
            (_INSTANCE, "if it.candidate.host_memory_bytes <= on_host)", "if it)"),
            (_INSTANCE, "host_memory_bytes <= on_host)", "host_memory_bytes < on_host)"),
            (_INSTANCE, "hosts if device.kind is DeviceKind.GPU else ()", "hosts"),
        ),
    ),
    rule(
        "Why a model lacks something, and what would help, is true of the plan.",
        "tests/planner/answers/test_explain.py",
        wrong=(
            (_EXPLAIN, "    if full and not idle:", "    if full:"),
            (_EXPLAIN, 'left{proof}"\n    if uncounted and', 'left{proof}"\n    if False and'),
            (_EXPLAIN, 'if idle else ""', 'if not idle else ""'),
            (_EXPLAIN, 'time, {less}" if _idle(packing, need) else', 'time" if False else'),
            (_EXPLAIN, 'if count else "stop another model"', 'or ""'),
            (_EXPLAIN, "lack.domain is not None:\n        also", "False:\n        also"),
        ),
    ),
    rule(
        "Where one more replica would fit, its host holds it as well.",
        "tests/planner/answers/test_explain.py",
        wrong=(
            (_ROOM, "        or _host(device, candidate, around)\n", ""),
            (_ROOM, "if need > left:", "if need >= left:"),
            (_ROOM, "is None or (device.host, other) in around.on_hosts", "is not True"),
            (_MODEL, "pool.capacity - used", "pool.capacity"),
            (_POOLS, "candidate.memory_bytes if on_cpu else", "0 if on_cpu else"),
        ),
    ),
    rule(
        "Ways out are true of the plan, and so is the conflict.",
        f"{_QUESTIONS}::test_who_must_be_near_to_another_is_no_conflict_without_it",
        f"{_QUESTIONS}::test_what_is_said_to_help_helps",
        wrong=(
            (_RELAX, "if name not in gone)", "if name)"),
            (_RELAX, "found += [tried] if tried.serves_all else []", "found += [tried]"),
            (_RELAX, "here.base, models=tuple(_alone(rest, here.base.models))", "here.base"),
        ),
    ),
    rule(
        "What is missing is said in true figures.",
        _TESTS,
        wrong=(
            (_EXPLAIN, _MISSING, f"{_MISSING} * 1.01"),
            (_EXPLAIN, _MISSING, "wanted"),
            (_EXPLAIN, _MISSING, f"round({_MISSING}, 3)"),
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
        "tests/core/plan/test_choices.py",
        wrong=(
            (_CHOICES, "few = priced - price * moves", "few = priced + price * moves"),
            (_CHOICES, "few = math.ceil(few - ", "few = math.floor(few - "),
            (_CHOICES, "return max(own, few)", "return max(own, priced)"),
            (_CHOICES, "low = max(low, more / steeper)", "low = more / steeper"),
            (_CHOICES, "most = best if forbidden else best_allowed", "most = best"),
            (_CHOICES, "is not Against.MOVE_BUDGET]", "is None]"),
            (_CHOICES, "return one.counted_moves * (", "return one.moves * ("),
        ),
    ),
    rule(
        "Where each replica is charged, no room that is left over is filled.",
        "tests/planner/test_objectives.py::test_min_energy_fills_no_room_that_is_left_over",
        wrong=(
            (
                f"{_PLANNER}/search/nearest.py",
                "if not may_open and charges_replicas(instance.request)",
                "if False",
            ),
            (
                f"{_PLANNER}/search/nearest.py",
                "        drop_surplus(packing)",
                "        restore(packing, may_open=may_open)",
            ),
            (
                f"{_PLANNER}/model/costs.py",
                "return request.objective is Objective.MIN_ENERGY",
                "return False",
            ),
        ),
    ),
    rule(
        "Completing what runs for goodput keeps to its share of the time.",
        "tests/planner/test_repair.py",
        "tests/planner/pack/test_complete.py",
        wrong=(
            (
                f"{_PLANNER}/search/repair.py",
                "watch.stop if by_cost else watch.within(COMPLETED_SHARE)",
                "watch.stop",
            ),
            (
                f"{_PLANNER}/search/repair.py",
                "COMPLETED_SHARE: Final = 0.3",
                "COMPLETED_SHARE: Final = 3.0",
            ),
            (
                f"{_PLANNER}/search/repair.py",
                "opens_last=by_cost, stop=stop)",
                "opens_last=by_cost)",
            ),
        ),
    ),
    rule(
        "The lowest option of a device is the first that holds all of its items.",
        "tests/planner/pack/test_complete.py",
        wrong=(
            (_PACKING, "or busy > how.busy_limit[count]", "or busy >= how.busy_limit[count]"),
            (_PACKING, "if count > 1 and how.mode is not mode", "if how.mode is not mode"),
            (_PACKING, "bears.get(item, 0.0) >= how.level", "bears.get(item, 0.0) > how.level"),
        ),
    ),
    rule(
        "What is left over is shared out within the time limit, and among plans as good.",
        "tests/planner/test_stopping.py",
        wrong=(
            (
                f"{_PLANNER}/search/nearest.py",
                "_filled(instance, one, watch.over, may",
                "_filled(instance, one, stop, may",
            ),
            (
                f"{_PLANNER}/search/nearest.py",
                "if m.packing.cost() <= most] if shares",
                "] if shares",
            ),
            (
                f"{_PLANNER}/search/nearest.py",
                "min(MAX_VARIABLES, VARIABLES * wall_seconds)",
                "MAX_VARIABLES",
            ),
            (
                f"{_PLANNER}/progress/watch.py",
                "finish += min(SHARING_MOST",
                "finish += max(SHARING_MOST",
            ),
        ),
    ),
    rule(
        "What moves buy names no plan with an outage, none within a budget that it breaks, and no "
        "bound that one of them beats.",
        f"{_MOVES}::test_a_plan_with_an_outage_is_not_among_those_that_moves_buy",
        f"{_MOVES}::test_of_plans_with_an_outage_and_without_only_those_without_are_told_of",
        f"{_MOVES}::test_a_plan_beyond_the_budget_is_told_and_wins_at_no_price",
        "tests/planner/check/test_certificate.py",
        wrong=(
            (f"{_PLANNER}/search/nearest.py", "if speaks >= OUTAGE:", "if speaks > OUTAGE:"),
            (
                f"{_PLANNER}/search/nearest.py",
                "value, moves, Against.MOVE_BUDGET)",
                "value, moves)",
            ),
            (_CHECK, "if other.moves <= one.moves and sign", "if other.moves < one.moves and sign"),
        ),
    ),
    rule(
        "A plan that stops replicas early is made where it is better with eight moves more, "
        "and never one with an outage in place of one without.",
        f"{_MOVES}::test_a_needless_stop_counts_as_eight_moves_and_is_no_reason_to_take_any_other_plan",
        f"{_MOVES}::test_of_plans_that_are_spoken_against_alike_the_first_is_taken",
        wrong=(
            (f"{_PLANNER}/search/nearest.py", "worth(early, EARLY_MOVES) >", "worth(early, 0) >"),
            (
                f"{_PLANNER}/search/nearest.py",
                "else least\n\n\ndef _taken",
                "else early\n\n\ndef _taken",
            ),
            (f"{_PLANNER}/search/nearest.py", " > worth(least, 0) else", " < -1e9 else"),
            (
                f"{_PLANNER}/search/nearest.py",
                "Against.NEEDLESS_STOP if speaks else",
                "None if speaks else",
            ),
        ),
    ),
    rule(
        "At the price that is told for it, the next best plan costs what the plan costs.",
        "tests/planner/search/test_next_best.py",
        "tests/core/plan/test_kinds.py",
        wrong=(
            (_KINDS, "high = min(high, now - lead / more)", "high = min(high, now + lead / more)"),
            (
                _KINDS,
                "others = [one for one in found if one.kinds != mine.kinds]",
                "others = found",
            ),
            (_KINDS, "= min(wins, key", "= max(wins, key"),
            (_KINDS, "for rival in rivals:", "for rival in rivals[:1]:"),
            (_KINDS, "if high - low > TRIFLE * now:", "if high - low > 0:"),
            (_KINDS, "_rounded(high, math.floor)", "_rounded(high, math.ceil)"),
            (_NEXT, "return least if cheaper else None", "return least"),
            (_NEXT, "if made.hopeless == instance.hopeless else None", ""),
        ),
    ),
    rule(
        "No plan has a larger factor than is proven, and each plan is raised from the one before.",
        "tests/planner/search/test_scale.py",
        wrong=(
            (_SCALE, "* (1 + SAFETY)\n\n    def market", "* 0.9\n\n    def market"),
            (_SCALE, "largest * [need.max_replicas", "largest * [need.min_replicas"),
            (
                _SCALE,
                "                self.lower(asked, LINEAR)\n",
                "                low = asked\n",
            ),
            (_SCALE, "return least is None or 0 <", "return 0 <"),
            (_SCALE, "return least is None or 0 < most < ", "return least is None or 0 < most > "),
            (_SCALE, "replace(need, survive_rate=0, survive_replicas=0)", "replace(need)"),
            (_SCALE, "            self.optimal = True\n", ""),
            (_SCALE, "BEYOND: Final = 1 + 1e-5", "BEYOND: Final = 1.0"),
            (_SCALE, "        if value <= self.value * (1 + SLACK) or ", "        if "),
            (
                _SCALE,
                "        most_goodput(adding, instance.needs",
                "        most_goodput(adding, ()",
            ),
        ),
    ),
    rule(
        "That not all can be served is proven by prices, and by no status.",
        "tests/planner/bounds/test_prices.py",
        wrong=(
            (_PRICES, "if part and result.termination.reason in NO_SOLUTION:", "if False:"),
            (_PRICES, "            (self.models, self.lacking, wanted),\n", ""),
            (
                _PRICES,
                "        if result.termination.reason is not mathopt.TerminationReason.OPTIMAL:\n"
                "            return None\n",
                "",
            ),
        ),
    ),
    rule(
        "No plan is better than what any prices of devices prove.",
        "tests/planner/bounds/test_prices.py",
        wrong=(
            (
                _PRICES,
                "parts = [covered, *(-excess), -t * worth.pools]",
                "parts = [covered, *-excess]",
            ),
            (_PRICES, "math.fsum([*found.pool, *(found.scarce", "math.fsum([*(found.scarce"),
            (_PRICES, "* pours.sites.need_max)])", "* pours.sites.need_min)])"),
            (
                _PRICES,
                "pours.way_class, found.price.sum(axis=1)",
                "pours.way_class, found.price.max(axis=1)",
            ),
            (
                _PRICES,
                "t * worth.value - worth.cost) * worth.devices",
                "t * worth.value - worth.cost)",
            ),
            (
                _PRICES,
                "np.minimum(cells[model], -(-rate // step[model]))",
                "np.minimum(cells[model], rate // step[model])",
            ),
            (_PRICES, "        sites = with_survival(sites)\n", ""),
            (
                _PRICES,
                "    total = math.fsum([worth_of(pours, found).of_all(), *gain])",
                "    total = math.fsum(gain)",
            ),
            (_PRICES, "int(held @ pours.classes.count))", "int(held.max()))"),
        ),
    ),
    rule(
        "What a replica takes of a device is never more than it takes with any others.",
        "tests/planner/bounds/test_prices.py",
        wrong=(
            (_POURS, "(each + slope * np.arange(1, most + 1)).max())", "each.max())"),
            (
                _POURS,
                "sites.limit_of[site, at, np.maximum(crowd, sites.entry_kappa[entry])]",
                "sites.limit_of[site, at, -1]",
            ),
            (_POURS, "1.0 / np.maximum(most, 1.0)", "2.0 / np.maximum(most, 1.0)"),
            (
                _POURS,
                "sites.entry_pool[entry][:, classes.column]",
                "2 * sites.entry_pool[entry][:, classes.column]",
            ),
            (_POURS, "(level <= sites.entry_top[:, None])", "(level < sites.entry_top[:, None])"),
        ),
    ),
    rule(
        "Prices are those of a program that counts what serves no more than is asked.",
        "tests/planner/bounds/test_prices.py",
        wrong=(
            (
                _PRICES,
                "served = np.minimum(np.arange(GRID + 1)[None, :] * step[:, None], need[:, None])",
                "served = np.arange(GRID + 1)[None, :] * step[:, None]",
            ),
            (_PRICES, "most = sites.need_rate / RATE_SCALE if rated else np.inf", "most = np.inf"),
            (_PRICES, "upper=1.0 / self.every", "upper=math.inf"),
            (_PRICES, "count = classes.count / self.every", "count = classes.count * 1.0"),
            (_PRICES, "price += FLOOR * device", "price += 0 * device"),
        ),
    ),
    rule(
        "The highest priority decides first, and what is proven is proven of each.",
        "tests/planner/search/test_priorities.py",
        wrong=(
            (_PRIORITIES, "            return 1 if a > b else -1\n", "            continue\n"),
            (_PRIORITIES, "EQUAL: Final = 1e-6", "EQUAL: Final = 0.2"),
            (
                _PRIORITIES,
                "        if proven:\n            held",
                "        if True:\n            held",
            ),
            (_PRIORITIES, "        kept.append((models,", "        [].append((models,"),
            (
                f"{_PLANNER}/model/needs.py",
                "lift[priority] = factor / usual",
                "lift[priority] = 1.0",
            ),
            (_PRIORITIES, "lexicographic(values_of(packing)), ", ""),
            (
                f"{_PLANNER}/answers/certify.py",
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
            (_SCALE, "while asked < most and not self.done():", "while asked < most:"),
            (_SCALE, "if self.stop() or (best and self.done())", "if best and self.done()"),
            (_SCALE, "        if self.stop():\n            return 0.0\n", ""),
            (_COMPLETE, "        if stop():\n            return\n", ""),
        ),
    ),
    rule(
        "A device's level of interference follows from what it holds, and each replica's worth "
        "from what all on the device then get.",
        "tests/planner/kernels/test_loads.py",
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
        "tests/planner/search/test_improve.py::test_enough_is_left_when_a_host_is_lost",
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
            (_VALUE, "most = max(most, bound)", "most = worth"),
            (_VALUE, "*(value * self.classes.count), pools]", "*(value * self.classes.count)]"),
            (_VALUE, "value = value - price *", "value = value + 0 *"),
        ),
    ),
    rule(
        "No set of a device is worth more than its bound, and none that is worth more than the "
        "floor is missed.",
        "tests/planner/kernels/test_pricing.py",
        wrong=(
            (
                _PRICING,
                "    if bound <= floor:\n        return none",
                "    if bound <= 2 * floor:\n        return none",
            ),
            (
                _PRICING,
                "            total += rest * min(most[i], place.max_items)",
                "            total += rest",
            ),
            (_PRICING, "            better += most[j]", "            better += place.max_items"),
        ),
    ),
    rule(
        "The best covering set is found among the entries that waste little.",
        "tests/planner/kernels/test_covers.py",
        wrong=(
            (_COVERS, "if most - (price[i] - unit * cell[i]) >= known", "if most - 1e9 >= known"),
            (_COVERS, "most - (price[i] - unit * cell[i])", "most - (price[i] + unit * cell[i])"),
            (_COVERS, "max((worth.each - unit) * worth.least, ", "max(-1e9, 0 * "),
        ),
    ),
    rule(
        "The largest and the least number of replicas limit replicas, and no cells of a demand.",
        "tests/planner/test_market.py",
        wrong=(
            (_DEMAND, "most=np.where(whole, sites.need_max, MANY)", "most=sites.need_max"),
            (_DEMAND, "least=np.where(whole, sites.need_min, 0)", "least=sites.need_min"),
            (_DEMAND, "np.where(least > 0, each, 0.0) * least", "2.0 * each * least"),
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
        "No plan has a larger factor than prices of rates prove.",
        "tests/planner/search/test_scale.py",
        wrong=(
            (_FACTOR, "np.where(self.target > 0, prices.rate, 0.0)", "prices.rate + 0.0"),
            (
                _FACTOR,
                "[*(value * self.market.classes.count), *prices.pool]",
                "[*value, *prices.pool]",
            ),
            (
                _FACTOR,
                "[*(value * self.market.classes.count), *prices.pool]",
                "value * self.market.classes.count",
            ),
        ),
    ),
    rule(
        "While the search is compiled, what a lost device held is placed beside what stays.",
        "tests/planner/pack/test_complete.py",
        wrong=(
            (_ADDING, "option != load.option and self._keeps(index, item, option)", "True"),
            (_ADDING, "if self.packing.counts[need.model] >= need.max_replicas:", "if True:"),
            (_MEMBERS, "(fresh[need.model] if stays else 0)", "0"),
        ),
    ),
    rule(
        "One more replica helps where something is missing, and comes with its company or not at "
        "all.",
        "tests/planner/pack/test_rules.py",
        wrong=(
            (
                _ADDING,
                "[i for i in devices if not tied or helps(",
                "[i for i in devices if True or (",
            ),
            (_ADDING, "            waiting |= absent(model)\n", ""),
            (
                _ADDING,
                "                    take_back(packing, old, before)\n",
                "                    pass\n",
            ),
        ),
    ),
    rule(
        "A plan that is filled anew device by device is no worse, and moves no more than it may.",
        "tests/planner/test_repair.py",
        wrong=(
            (_COMPLETE, "if after <= before and may(trial):", "if may(trial):"),
            (_COMPLETE, "if after <= before and may(trial):", "if after <= before:"),
            (_COMPLETE, "trial = found.copy()", "trial = found"),
        ),
    ),
)
