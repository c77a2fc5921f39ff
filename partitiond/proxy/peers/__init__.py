"""Reaches the proxies of other hosts: frames, connections, and what each peer told of its load."""
