"""Pages of large fleets that hide what somebody should look at."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_PAGE: Final = "partitiond/core/plan/page.py"
_TABLES: Final = "partitiond/cli/tables.py"

PAGES: Final[tuple[Rule, ...]] = (
    rule(
        "On a page of a large fleet stand the worst served, the fullest and the emptiest.",
        "tests/core/plan/test_page.py",
        wrong=(
            (_PAGE, "return forecast.replicas > 0, none,", "return forecast.replicas < 0, none,"),
            (_PAGE, "key=lambda f: (-f.share,", "key=lambda f: (0.0,"),
            (_PAGE, "empty = ordered[most:][-most:]", "empty = ordered[-most:]"),
            (_PAGE, "groups[fill.hardware, fill.mode,", "groups[fill.mode,"),
            (_PAGE, "len(plan.forecasts) > MANY_MODELS or used", "used"),
        ),
    ),
    rule(
        "A table of hundreds of rows begins with those that are not as they should be.",
        "tests/cli/test_tables.py",
        wrong=(
            (_TABLES, "m.replicas_serving < m.replicas_planned or ", ""),
            (_TABLES, 'in ("green", "cyan")', 'in ("green", "cyan", "red")'),
            (_TABLES, "few = page is None or len(items) <= MANY_ROWS", "few = page is None"),
            (_TABLES, "odd = [not _is_fine(r.state)", "odd = [_is_fine(r.state)"),
        ),
    ),
)
