"""What is used of keys' budgets, on disk: a restart gives nobody a new one."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from partitiond.core.rates import BudgetUse, budgets_from_dict, budgets_to_dict
from partitiond.proxy.table_file import write_atomically

BUDGETS_FILE: Final = "budgets.json"

_logger = logging.getLogger("partitiond.proxy")


class BudgetsFile:
    """One process writes it: the only one, or the parent of the workers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved = b""
        self._failing = False

    def load(self) -> dict[str, BudgetUse]:
        """By key id; nothing where it is not readable, which is logged."""
        try:
            return budgets_from_dict(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError):
            _logger.exception("the keys' budgets on disk are not readable: %s", self._path)
            return {}

    def save(self, budgets: Mapping[str, BudgetUse]) -> None:
        """Write them where they have changed. A full disk loses them, never a request."""
        data = json.dumps(budgets_to_dict(budgets)).encode()
        if data == self._saved or (not budgets and not self._path.exists()):
            return
        try:
            write_atomically(self._path, data)
            self._saved = data
            self._failing = False
        except OSError as error:
            if not self._failing:  # a full disk needs no line each second
                _logger.error("the keys' budgets could not be written: %s", error)
            self._failing = True
