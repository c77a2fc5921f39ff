"""Tables show hosts where there are several, and nothing of them where there is one."""

from dataclasses import replace

from partitiond.cli.devices.tables import devices_table
from partitiond.cli.hosts.listing import clock_words, hosts_table, hosts_words, last_word
from partitiond.cli.tables import replicas_table
from partitiond.core.hardware.host_state import HostState
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.units import GIB, Bytes
from partitiond.core.views.lists import ReplicaView
from tests.cli.conftest import text_of
from tests.controller.samples import cpu
from tests.hosts.fleet import FINE, HEAD, LOST, NEVER

CPU = cpu()
HOSTS = (HEAD, FINE, LOST, NEVER)
PARTITION = CpuCores("cpu", Bytes(GIB), (0,))
VIEW = ReplicaView(
    "m-1", "m-1", "m", "cpu", PARTITION, "serving", 7, 0, 8, GIB, 1, adopted=False, host="beta"
)


def test_hosts_have_a_row_with_their_reason_and_what_they_do_not_reach_below() -> None:
    shown = [line.rstrip() for line in text_of(hosts_table(HOSTS, {"gpu-1": 12}), 100).splitlines()]
    rows = {line.split()[0]: line for line in reversed(shown) if line}
    assert "fine, head" in rows["head"]
    assert rows["gpu-1"].split() == [
        "gpu-1", "fine", "10.0.0.2", "8", "12", "1.2.0", "0.24.0", "2.60.0", "-12", "ms", "now",
    ]  # fmt: skip
    assert "10 min 00 s ago" in rows["gpu-2"]
    assert rows["gpu-3"].split()[-1] == "never"
    assert f"gpu-2 is lost: {LOST.reason}" in shown
    assert f"gpu-3 is refused: {NEVER.reason}" in shown
    assert "endpoint" not in text_of(hosts_table(HOSTS, {}))
    apart = replace(FINE, unreached=("head", "gpu-2"))
    said = " ".join(text_of(hosts_table((HEAD, apart, LOST), {}), 100).split())
    assert "the endpoint of gpu-1 does not reach that of head at 10.0.0.1:6387: what" in said
    assert "of gpu-2 at" not in said  # why it is lost is said already
    late = replace(FINE, clock_offset_seconds=41.26, silent_seconds=7.0, state=HostState.LATE)
    assert (clock_words(late), last_word(late)) == ("+41.3 s", "7.0 s ago")
    assert (clock_words(HEAD), clock_words(NEVER)) == ("-", "-")
    assert hosts_words((HEAD, FINE)) == "2"
    assert hosts_words((HEAD, late)) == "2; gpu-1 is late (see `partitiond hosts`)"


def test_tables_have_a_column_for_hosts_only_if_there_are_several() -> None:
    other = replace(CPU, id="cpu-b", host="beta")
    assert "host" not in text_of(devices_table([CPU]))
    shown = text_of(devices_table([CPU, other]))
    assert "host" in shown
    assert "beta" in shown
    many = [replace(CPU, id=f"cpu-{n}", host=f"host-{n}") for n in range(60)]
    assert "60 hosts" in text_of(devices_table(many))
    assert text_of(replicas_table([VIEW])) == text_of(replicas_table([replace(VIEW, host="")]))
    assert "beta" in text_of(replicas_table([VIEW], several=True))
