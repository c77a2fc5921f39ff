"""Reads what is known of a running deployment; each source only queries."""
