"""Defines what people see: records that the API, the CLI and the dashboard show.

A view joins what the store keeps with what runs. The controller makes views; the API and the CLI
render them. No decision reads a view: no other room of the core imports this one.
"""
