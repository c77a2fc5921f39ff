"""Reads the settings of commands that act on this host's part in a fleet."""

from typing import TYPE_CHECKING

import typer

from partitiond.cli.options import settings_of
from partitiond.cli.setup.cluster_units import as_installed
from partitiond.cli.setup.host import SetupHost

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings


def settings_of_place(ctx: typer.Context) -> "Settings":
    """Return the settings, with the place among hosts that `setup` gave the service.

    Raises:
        SettingsError: as `settings_of`.
    """
    return as_installed(settings_of(ctx), SetupHost())
