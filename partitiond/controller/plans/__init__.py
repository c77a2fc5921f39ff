"""Makes and applies plans: on request, and by itself after a registration.

`use_cases` serves people, `chain` acts after registrations, `planning` gathers the question and
asks the planner, `situation` says when an answer is outdated, `derived` adds profiles that follow
from measured ones, `convergence` reports how far the host is.
"""
