"""Wraps the operating system: clocks, process identities, systemd, files of certificates.

It imports nothing of the product but core; `deadline_calls` puts a deadline on calls that may hang.
"""
