"""Carries the calls of an agent as bytes.

A message is JSON (`messages`) and is answered within seconds. It names a method of a port
("engines.start") and has its arguments; the signatures of the ports say how arguments and results
are read (`signatures`), so a port that takes anything but plain records cannot be carried.

What ends soon is a *question*: its message is answered with the value, and a lost one is an error.
All else is a *call*. The near side
(`near.RemoteHost`) begins it: the message is answered with the call's result, or after a second
with word that it runs. Results and what `progress` is told are then collected by one message for
all calls of a host, which is answered as soon as there is news. So a call that takes minutes
outlives each of the messages about it, and whatever carries them.

Each message names the calls that the near side still waits for. That is an order and an
acknowledgement at once: whatever it does not wait for any more is ended and forgotten at the far
side (`far.HostServer`, `session.HeadCalls`), and does not begin when a late message asks for it.
A call has a number, and a number begins one call once; messages may be lost, late, or come twice.

`fencing` decides whom an agent obeys, and `obeyed` keeps that over a restart.
"""
