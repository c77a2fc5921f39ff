"""Makes one control plane of several hosts: each has an agent, which does what is decided.

`this_host` wires the agent of the host that this process runs on, from the adapters of its devices
and engines. With one host the control plane is given these adapters themselves. With several,
`together` gives it composites that implement the same ports over all agents (`engines`, `devices`,
`proxies`), by the host of the launch, the device or the replica. `remote` carries an agent's calls
as bytes; what moves the bytes is another's work.
"""
