"""Defines the exit codes of the command line."""

from typing import Final

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
"""No request completed, or the server cannot be used."""
EXIT_USAGE: Final = 2
"""An option or a file is wrong."""
EXIT_SATURATED: Final = 3
"""The instrument was saturated; figures are withheld."""
EXIT_INTERRUPTED: Final = 130
