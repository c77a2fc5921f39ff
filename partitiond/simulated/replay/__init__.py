"""Simulates plans by discrete events: real decisions on a simulated clock, engines by formula.

Real are the decisions which requests are admitted, wait or are refused (`core.dispatch.admission`),
which replica gets a request (`core.dispatch.balance`), what a request is expected to cost, and how
replicas on one device slow each other down (`core.performance.interference`): the functions of the
proxy and the planner are called, not copied. Arrivals and lengths are the load generator's own, the
same for the same seed. Modelled are time (an event queue), and engines, which batch continuously
(`batch`) and whose step times are fitted to a profile or follow from a roofline (`steps`).

One shortcut is sound: between two events an engine that only decodes repeats the same step, so the
simulation takes such steps in one leap, and cuts the leap at the end of the step under way when
something arrives (`engine`). The result is the same as with single steps.
"""
