"""Decides which settings a reload (SIGHUP, `systemctl reload`) takes over. Pure.

A setting may be reloaded if nothing was built from it: limits that each pass of the loop or each
plan reads. Addresses, folders, devices and the start of engines are fixed for the life of a daemon;
a restart of the daemon breaks no stream if `daemon.keep_engines_on_exit` is set.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

from partitiond.settings.schema import Settings

RELOADABLE: Final = frozenset(
    {
        "daemon.keep_engines_on_exit",
        "engine.drain_deadline_seconds",
        "keys.stale_seconds",
        "planner.deterministic",
        "planner.move_price",
        "planner.objective",
        "planner.seed",
        "planner.time_limit_seconds",
        "proxy.max_queue",
        "proxy.max_wait_seconds",
        "proxy.require_keys",
    }
)
"""Dotted keys of the settings that a reload takes over."""


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """The differences of new settings from those in use.

    Attributes:
        taken: keys whose new value a reload takes over.
        waiting: keys whose new value needs a restart of the daemon.
    """

    taken: tuple[str, ...]
    waiting: tuple[str, ...]

    def text(self) -> str:
        """Return one line for the log and `systemctl status`."""
        if not self.taken and not self.waiting:
            return "settings re-read: nothing changed"
        parts = []
        if self.taken:
            parts.append(f"took {', '.join(self.taken)}")
        if self.waiting:
            parts.append(f"a restart is needed for {', '.join(self.waiting)}")
        return "settings re-read: " + "; ".join(parts)


def changes(used: Mapping[str, object], new: Mapping[str, object]) -> Changes:
    """Compare two sets of settings, each by dotted key (`settings.settings_values`)."""
    differing = sorted(key for key in used.keys() | new.keys() if used.get(key) != new.get(key))
    return Changes(
        tuple(key for key in differing if key in RELOADABLE),
        tuple(key for key in differing if key not in RELOADABLE),
    )


def taken_over(used: Settings, new: Settings, keys: tuple[str, ...]) -> Settings:
    """Return the settings in use, with the new values of these keys (`Changes.taken`)."""
    tables: dict[str, dict[str, object]] = {}
    for key in keys:
        table, _, field = key.partition(".")
        tables.setdefault(table, {})[field] = getattr(getattr(new, table), field)
    return used.model_copy(
        update={
            table: getattr(used, table).model_copy(update=fields)
            for table, fields in tables.items()
        }
    )
