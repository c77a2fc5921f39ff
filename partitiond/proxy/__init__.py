"""The data plane: one OpenAI-compatible endpoint in front of all replicas.

A process of its own, in its own session. It knows one thing, the last `RoutingTable`, which it
keeps on disk: without a control plane it goes on serving, and after a crash it serves again as
soon as it is started. It imports `core`, `serde` and `ports`, and nothing else of ours.

A request's way: `lane` (bytes, limits on the head; what is rare goes to `app`) -> `exchange` (key,
JSON, limits, retry, the honest end) -> `live` (a replica, or a place in the queue) -> `attempt` and
`upstream` (one connection to one engine) and back through `events` (complete events only) and
`answer`; `record` remembers how it went.
"""
