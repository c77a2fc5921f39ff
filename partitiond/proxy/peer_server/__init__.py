"""Serves the proxies of other hosts: admits their requests to the replicas of this host."""
