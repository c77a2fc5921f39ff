"""Reaches the proxies of other hosts by HTTP/1.1, and knows what each told of its load."""
