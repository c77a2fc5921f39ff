"""Checks API keys, and counts what each uses against its rates and budgets.

The rules are `core.keys`; `budgets_file` keeps what is used over restarts.
"""
