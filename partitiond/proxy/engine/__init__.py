"""Serves the engine's side of the endpoint: HTTP/1.1 over Unix sockets.

`upstream` has the connections to one engine; `framing` and `events` take answers apart without I/O.
It knows no replica and no client.
"""
