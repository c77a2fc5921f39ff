"""Finds the agent of a host."""

from collections.abc import Sequence
from typing import Final

from partitiond.core.errors import HostSilentError
from partitiond.ports.host_agent import HostAgent

ASK_AGAIN_SECONDS: Final = 2.0
"""Pause before a silent host is asked again. Chosen: shorter than people wait for word of a host
that is back, and a question costs a failed connect."""


class Agents:
    """The agents of all hosts; the first one is of the control plane's own host.

    Args:
        agents: with different names, at least one.
    """

    def __init__(self, agents: Sequence[HostAgent]) -> None:
        self._by_name = {agent.name: agent for agent in agents}
        assert len(self._by_name) == len(agents) > 0
        self.own = agents[0]

    @property
    def all(self) -> tuple[HostAgent, ...]:
        """All agents, the own host's first."""
        return tuple(self._by_name.values())

    def add(self, agent: HostAgent) -> None:
        """Add the agent of a host that joined. Threads that go over `all` are not disturbed."""
        assert agent.name not in self._by_name
        self._by_name = {**self._by_name, agent.name: agent}

    def remove(self, host: str) -> None:
        """Take out the agent of a host that is no part of the fleet any more."""
        assert host != self.own.name
        self._by_name = {name: one for name, one in self._by_name.items() if name != host}

    def of(self, host: str) -> HostAgent:
        """Return the agent of a host; without a name, of the own one.

        Raises:
            HostSilentError: the host has no agent here.
        """
        found = self._by_name.get(host) if host else self.own
        if found is None:
            raise HostSilentError(
                f"the host {host} is not there.",
                hint="Have it join again, or apply a plan without it.",
                facts={"host": host},
            )
        return found
