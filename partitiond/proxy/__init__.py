"""Implements the data plane: one OpenAI-compatible endpoint in front of all replicas.

The proxy is a process of its own, in its own session. It needs only the last `RoutingTable`, which
it keeps on disk: it goes on serving without a control plane, and after a crash it serves again as
soon as it is started. Of ours it imports `core`, `metrics`, `platform` and `serde` alone.

A request takes this path: `data_protocol` (bytes, limits on the head; what no engine answers goes
to `local_requests`) -> `exchange` (key, JSON, limits, retry, the honest end) -> `live` (a replica,
or a place in the queue) -> `attempt` and `upstream` (one connection to one engine) and back through
`events` (complete events only) and `answer`; `record` records the outcome.
"""
