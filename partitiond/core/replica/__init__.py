"""Decides what replicas do next: their states, and actions from a plan and an observation.

`reconcile` is the entrance, `states` the state machine, `observation` its input; `convergence` and
`obstacles` explain to people what is still missing; `sleep` and `step_down` decide which replica
gives up memory. The controller's loop and the fleet simulation call this room.
"""
