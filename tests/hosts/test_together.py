"""What is asked of all hosts together has one answer.

A plan over real hosts is run and adopted in `tests/e2e/test_several_hosts.py` and
`tests/cluster/test_faults.py`.
"""

import pytest

from partitiond.core.errors import EngineUnavailableError, HostSilentError
from partitiond.hosts.together import Hosts
from tests.controller.fakes import FakeRunner
from tests.devices.fake import FakeDevices
from tests.hosts.pipes import FakeAgent, devices_of, piped


async def test_an_engine_on_any_host_will_do() -> None:
    own, two, three = (FakeAgent(n, FakeRunner(), FakeDevices(devices_of(n))) for n in "abc")
    hosts = Hosts([own, two])
    absent = two.problem = EngineUnavailableError("there is none.", hint="Install it.")
    assert hosts.engine_problem() is None
    own.problem, two.problem = absent, None
    assert hosts.engine_problem() is None
    two.problem = absent
    assert hosts.engine_problem() is absent
    hosts.add(piped(three)[0])
    with pytest.raises(HostSilentError, match="not looked at yet"):
        hosts.engine_problem()
