"""Runs engines: starts them, checks that they live, and leaves nothing of them behind.

One replica is one run folder and one process tree:

    daemon ──starts──> shim (own session, leader, child subreaper, writes process.json)
                         └─ engine's main process (dies with the shim)
                              └─ its own children (stay in the session)

The shim is not a child of the daemon: if the daemon dies, the next daemon finds the engine by its
run folder alone (`journal`). A process is identified by (pid, start time, boot), not by pid alone.
"""
