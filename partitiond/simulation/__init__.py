"""Discrete-event simulation: the production's decisions on a made-up clock, engines by formula.

What is real here: who is admitted, who waits and who is refused (`core.admission`), which replica
gets a request (`core.balance`), what a request is expected to cost, and what replicas on one
device do to each other (`core.interference`). These are the functions the proxy and the planner
run, called and not copied. Arrivals and lengths are the load generator's own, the same for the
same seed. What is modelled: time (an event queue), and engines, which batch continuously
(`batch`) and whose steps take what was fitted to a profile or follows from a roofline (`steps`).

A shortcut that is sound: between two events an engine that only decodes does the same step again
and again, so such steps are taken in one leap, and a leap is cut at the end of the step under way
when something arrives (`engine`). Nothing differs from stepping one by one.
"""
