"""The rules, by what they are about."""

from typing import Final

from tests.wrong_versions.batches import BATCHES
from tests.wrong_versions.bodies import BODIES
from tests.wrong_versions.charging import CHARGING
from tests.wrong_versions.control import CONTROL
from tests.wrong_versions.dispatch import DISPATCH
from tests.wrong_versions.dispatcher import DISPATCHER
from tests.wrong_versions.edge import EDGE
from tests.wrong_versions.engine_user import ENGINE_USER
from tests.wrong_versions.groups import GROUPS
from tests.wrong_versions.host_choice import HOST_CHOICE
from tests.wrong_versions.hosts import HOSTS
from tests.wrong_versions.jobs import JOBS
from tests.wrong_versions.looks import LOOKS
from tests.wrong_versions.loop import LOOP
from tests.wrong_versions.memory import MEMORY
from tests.wrong_versions.pages import PAGES
from tests.wrong_versions.peers import PEERS
from tests.wrong_versions.portions import PORTIONS
from tests.wrong_versions.recovery import RECOVERY
from tests.wrong_versions.replicas import REPLICAS
from tests.wrong_versions.rule import Rule
from tests.wrong_versions.truth import TRUTH

RULES: Final[tuple[Rule, ...]] = (
    *BATCHES,
    *BODIES,
    *CHARGING,
    *CONTROL,
    *DISPATCH,
    *DISPATCHER,
    *EDGE,
    *ENGINE_USER,
    *GROUPS,
    *HOST_CHOICE,
    *HOSTS,
    *JOBS,
    *LOOKS,
    *LOOP,
    *MEMORY,
    *PAGES,
    *PEERS,
    *PORTIONS,
    *RECOVERY,
    *REPLICAS,
    *TRUTH,
)
