"""Listens for clients: sockets, accepting within the limit on open files, TLS and its handshakes.

`handshakes` opens connections of `edge.data_protocol`; with several workers, the parent accepts and
hands the sockets on (`acceptor`).
"""
