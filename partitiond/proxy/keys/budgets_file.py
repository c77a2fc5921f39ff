"""Stores the used part of keys' budgets on disk, so that a restart does not renew a budget."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from partitiond.core.dispatch.routing import KeyRates
from partitiond.core.keys.rates_and_budgets import BudgetUse, budgets_from_dict, budgets_to_dict
from partitiond.proxy.dispatch.table_file import write_atomically

BUDGETS_FILE: Final = "budgets.json"

_logger = logging.getLogger("partitiond.proxy")


class BudgetsFile:
    """The budgets on disk. Only one process writes them: the only one, or the workers' parent.

    What was loaded of keys that nobody took over stays in the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved = b""
        self._failing = False
        self._keeps = False
        self._untaken: dict[str, BudgetUse] = {}

    def load(self) -> dict[str, BudgetUse]:
        """Return the used budgets by key id, as far as the file can be read.

        A file that cannot be read is moved aside and never overwritten, so that the operator can
        repair it.
        """
        found: dict[str, BudgetUse] = {}
        try:
            kept = json.loads(self._path.read_bytes())
            found = self._untaken = budgets_from_dict(kept)
            if isinstance(kept, dict) and len(found) == len(kept):
                return found
            why = f"{len(found)} entries of it make sense"
        except FileNotFoundError:
            return found
        except (OSError, ValueError, RecursionError) as error:
            why = str(error)
        self._put_aside(why, len(found))
        return found

    def _put_aside(self, why: str, known: int) -> None:
        aside = self._path.with_name(f"{self._path.name}.unreadable-{time.time_ns()}")
        try:
            self._path.rename(aside)
        except OSError as error:
            self._keeps = True
            _logger.error(
                "the keys' budgets on disk cannot be read (%s) nor moved (%s): %s is left as it "
                "is, what keys use from now on is not kept over a restart, and %d keys go on where "
                "they were; the others begin a new budget. Mend or remove it, and restart.",
                why, error, self._path, known,
            )  # fmt: skip
            return
        _logger.error(
            "the keys' budgets on disk cannot be read (%s): %s is now %s, and %d keys go on where "
            "they were; the others begin a new budget. Mend it, stop the endpoint, put it back.",
            why, self._path, aside, known,
        )  # fmt: skip

    def take(self, key_id: str, rates: KeyRates) -> BudgetUse | None:
        """Return what was loaded of a key, which counts on elsewhere from now on; None if its
        budget has another period now.
        """
        use = self._untaken.pop(key_id, None)
        return use if use is not None and use.period is rates.budget_period else None

    def save(self, used: Mapping[str, BudgetUse]) -> None:
        """Write the budgets if they have changed. A full disk loses budgets, never a request."""
        if self._keeps:
            return
        budgets = self._untaken | dict(used)
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
