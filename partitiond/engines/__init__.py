"""Engines: what to run, how to know that it lives, and how nothing of it is left behind.

One replica is one run folder and one process tree:

    daemon ──starts──> shim (own session, leader, child subreaper, writes process.json)
                         └─ engine's main process (dies with the shim)
                              └─ whatever it spawns (stays in the session)

The shim is not a child of the daemon: the daemon may die, and a later one finds the engine by
its run folder alone (`journal`). A process is known by (pid, start time, boot), never by its pid.
"""
