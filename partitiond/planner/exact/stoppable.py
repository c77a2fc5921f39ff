"""Runs CP-SAT in a thread of its own, so that the caller can end it."""

import threading
from collections.abc import Callable
from typing import Any, Final

from ortools.sat.python import cp_model

POLL_SECONDS: Final = 0.05


def solve_stoppable(
    solver: cp_model.CpSolver, model: cp_model.CpModel, stop: Callable[[], bool]
) -> Any:
    """Return the solver's status; once `stop` is True, with the best solution so far.

    In the main thread CP-SAT would block signals until it is done: an interrupt would only be
    handled at the end.
    """
    outcomes: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            outcomes.append(solver.solve(model))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=work, name="cp-sat", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            # A stop before the search has begun is ignored, so it is repeated.
            if stop():
                solver.stop_search()
            thread.join(POLL_SECONDS)
    except BaseException:
        solver.stop_search()
        raise
    if errors:
        raise errors[0]
    return outcomes[0]
