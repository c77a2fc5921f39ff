"""Serves the client's side of the endpoint: connections, request heads and bodies, answers.

`data_protocol` has the callbacks of the HTTP parser; `exchange` is one request from head to record,
and `attempt` sends it to one replica and relays the answer; `local_requests` answers what no engine
does. `state` is what all of them share: the
table, its models, connections and requests. The room calls `request`, `keys`, `dispatch` and
`engine`; the server calls it.
"""
