"""Makes one control plane of hosts: each has an agent, which does what is decided.

`this_host` wires the agent of the host that this process runs on, from the adapters of its devices
and engines.
"""
