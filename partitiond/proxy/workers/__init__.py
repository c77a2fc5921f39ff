"""Runs several worker processes behind one port.

`parent` starts them, hands them connections and routing tables, and merges their answers.
"""
