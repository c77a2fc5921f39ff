"""Keys and the store, readiness, the dashboard's session."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_CONNECTION: Final = "partitiond/store/connection.py"
_REPOSITORY: Final = "partitiond/store/repository.py"
_AUTH: Final = "partitiond/api/auth.py"
_SESSIONS: Final = "partitiond/api/sessions.py"

CONTROL: Final[tuple[Rule, ...]] = (
    rule(
        "What somebody asked for is on the disk when it is committed; nothing else waits.",
        "tests/store/test_durable.py",
        wrong=(
            (
                _REPOSITORY,
                "            with self._write(durable=True) as session:\n"
                "                session.delete(_key_row(",
                "            with self._write() as session:\n"
                "                session.delete(_key_row(",
            ),
            (
                _CONNECTION,
                '    connection.exec_driver_sql(f"PRAGMA synchronous = {level}")\n'
                '    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")\n',
                '    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")\n'
                '    connection.exec_driver_sql(f"PRAGMA synchronous = {level}")\n',
            ),
            (
                _CONNECTION,
                '    connection.exec_driver_sql(f"PRAGMA synchronous = {level}")\n',
                '    if level == "FULL":\n'
                '        connection.exec_driver_sql(f"PRAGMA synchronous = {level}")\n',
            ),
            (
                "partitiond/store/event_repository.py",
                "durable=any(event.actor for event in events)",
                "durable=False",
            ),
        ),
    ),
    rule(
        "Readiness gives reasons to nobody without the admin token.",
        "tests/api/test_resources.py",
        "tests/client/test_client.py::test_what_is",
        wrong=(
            (_AUTH, "scope[ADMITTED] = error is None", "scope[ADMITTED] = True"),
            (
                _AUTH,
                "scope[ADMITTED] = error is None",
                'scope[ADMITTED] = bool(bearer(scope["headers"]))',
            ),
            (
                "partitiond/api/routes/health.py",
                '"not ready.", hint="With',
                '"not ready.", facts=missing, hint="With',
            ),
            ("partitiond/client/views.py", "return why_not or {", "return why_not and {"),
        ),
    ),
    rule(
        "A browser sends the dashboard's session to nobody by itself, and who logs out is out.",
        "tests/api/routes/test_ui.py",
        wrong=(
            (
                "partitiond/api/routes/ui.py",
                'return JSONResponse({"session": value}, headers=NO_STORE)',
                'return JSONResponse({"session": value}, '
                'headers=NO_STORE | {"Set-Cookie": f"session={value}; HttpOnly"})',
            ),
            (
                _SESSIONS,
                'if name == b"authorization"), b"")',
                'if name == b"authorization"), '
                'next((b"Bearer " + v.rpartition(b"=")[2] for n, v in headers '
                'if n == b"cookie"), b""))',
            ),
            (_SESSIONS, "        self._open.pop(_key(value), None)\n", "        return\n"),
            (_SESSIONS, "session.until > self._clock()", "session.until >= self._clock()"),
        ),
    ),
)
