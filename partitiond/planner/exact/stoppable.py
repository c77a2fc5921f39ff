"""CP-SAT in a thread of its own, so that whoever waits for it can end it."""

import threading
from collections.abc import Callable
from typing import Any, Final

from ortools.sat.python import cp_model

POLL_SECONDS: Final = 0.05


def solve_stoppable(
    solver: cp_model.CpSolver, model: cp_model.CpModel, stop: Callable[[], bool]
) -> Any:
    """The solver's status; after `stop` says so, with the best it has by then.

    In the main thread it would hold signals back until it is done: an interrupt would only be
    heard at the end.
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
            # Before the search has begun a stop is not heard, so it is said again.
            if stop():
                solver.stop_search()
            thread.join(POLL_SECONDS)
    except BaseException:
        solver.stop_search()
        raise
    if errors:
        raise errors[0]
    return outcomes[0]
