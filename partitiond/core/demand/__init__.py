"""Measures and forecasts the demand for models, and decides when to plan for another one.

`traffic` compares two counts of the proxy, `forecast` predicts a rate from past ones, and
`planned_rate` decides. The controller's room of the same name and the fleet simulation act on it.
"""
