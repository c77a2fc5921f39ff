"""Explains a plan: its certificate, each model's place, what-ifs, and what would make all fit.

It asks the search again for what-ifs. `planner.api`, the controller and the command line call it.
"""
