"""Settings and devices give the control plane the host's memory."""

import psutil
import pytest

from partitiond.core.errors import SettingsError
from partitiond.core.units import GIB
from partitiond.settings.reload import RELOADABLE, changes, taken_over
from partitiond.settings.schema import list_settings, load_settings, settings_values
from partitiond.settings.service import service_options


@pytest.mark.parametrize(
    "overrides",
    [{"cpu.enabled": True}, {"cpu.enabled": False, "gpu.simulated_host": "/nonexistent"}],
)
def test_host_memory_is_said_by_the_cpu_device_or_not_at_all(overrides: dict[str, object]) -> None:
    settings = load_settings(overrides=overrides).settings
    assert service_options(settings).planning.host_memory_bytes is None


def test_host_memory_of_a_host_of_gpus_alone_is_what_there_is_less_headroom() -> None:
    settings = load_settings(overrides={"cpu.enabled": False}).settings
    told = service_options(settings).planning.host_memory_bytes
    assert told is not None
    assert 0 < told < psutil.virtual_memory().total
    less = load_settings(overrides={"cpu.enabled": False, "cpu.memory": "1GiB"}).settings
    told = service_options(less).planning.host_memory_bytes
    assert told is not None
    assert told < GIB


@pytest.mark.parametrize(
    ("stale", "cluster", "told"),
    [(None, False, 0.0), (None, True, 3600.0), (0.0, True, 0.0), (90.0, False, 90.0)],
)
def test_keys_get_stale_by_default_in_a_cluster_alone(
    stale: float | None, cluster: bool, told: float
) -> None:
    settings = load_settings(overrides={"keys.stale_seconds": stale}).settings
    members = settings.cluster.model_copy(update={"enabled": cluster})
    settings = settings.model_copy(update={"cluster": members})
    assert service_options(settings).routes.keys_stale_seconds == told


def test_keys_that_would_be_refused_in_a_slow_pass_are_none() -> None:
    with pytest.raises(SettingsError, match="give 10 or more"):
        load_settings(overrides={"keys.stale_seconds": 9.0})


def test_changes_are_told_apart_and_only_what_was_taken_changes() -> None:
    assert {info.key for info in list_settings()} >= RELOADABLE
    old = load_settings().settings
    new = load_settings(overrides={"planner.seed": 7, "control.port": 9999}).settings
    found = changes(settings_values(old), settings_values(new))
    assert (found.taken, found.waiting) == (("planner.seed",), ("control.port",))
    assert found.text() == (
        "settings re-read: took planner.seed; a restart is needed for control.port"
    )
    assert changes(settings_values(old), settings_values(old)).text() == (
        "settings re-read: nothing changed"
    )
    old = load_settings().settings
    new = load_settings(
        overrides={
            "planner.seed": 7,
            "proxy.max_queue": 3,
            "proxy.port": 1234,
            "daemon.keep_engines_on_exit": True,
        }
    ).settings
    found = changes(settings_values(old), settings_values(new))
    used = taken_over(old, new, found.taken)
    assert (used.planner.seed, used.proxy.max_queue, used.proxy.port) == (7, 3, old.proxy.port)
    assert used.daemon.keep_engines_on_exit
    assert changes(settings_values(used), settings_values(new)).taken == ()
