"""Starts, finds, watches and ends the processes of engines, whichever program they run.

`runner` implements `ports.EngineRunner`; each engine has a `shim` as its parent, so that it
outlives the daemon, and a run folder (`journal`) from which the next daemon adopts it. `commands`
builds what a shim runs, for each kind of engine.
"""
