"""Simulates fleets: thousands of engines, millions of requests, with the real decision code.

Real are the decisions which requests are admitted, wait or are refused, which replica gets a
request, how replicas on one device slow each other down, what hosts start, drain and stop, which
models are scaled to zero and woken, and what demand is planned for: the functions of the proxy, the
controller and the planner are called, not copied. Arrivals and lengths are the load generator's
own. Modelled are time (an event queue), and engines, which batch continuously (`engine`) and whose
step times follow from a profile (`simulated.steps`) or a roofline. What a host adds to a request
(parsing, forwarding, waiting for a core) is left out.
"""
