"""Serves the engine's side of the endpoint: HTTP/1.1 over Unix sockets, and attempts on replicas.

`attempt` sends one request to one replica and relays its answer; `framing` and `events` take
answers apart without I/O.
"""
