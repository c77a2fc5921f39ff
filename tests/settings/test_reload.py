"""A reload takes over some settings, and leaves the others to a restart."""

from partitiond.settings.reload import RELOADABLE, changes, taken_over
from partitiond.settings.schema import list_settings, load_settings, settings_values


def test_every_reloadable_setting_exists() -> None:
    assert {info.key for info in list_settings()} >= RELOADABLE


def test_changes_are_told_apart_and_named() -> None:
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


def test_only_what_was_taken_changes() -> None:
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
