"""Implements `ports.cluster` with Ray, and without it for tests.

Ray is imported by one program, `bridge`, which runs in a process of its own with an interpreter
that has Ray. `ray_cluster` starts the bridge beside the daemon; `keeper` keeps Ray's processes on
each host, as `ray_node` says; `ray_environment` finds Ray or installs it. `socket_cluster` reaches
agents by their sockets alone.
"""
