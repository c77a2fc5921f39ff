"""Answers of engines as they come: trailers."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_LANE: Final = "partitiond/proxy/edge/data_protocol.py"
_CONNECTION: Final = "partitiond/proxy/edge/client_connection.py"
_EXCHANGE: Final = "partitiond/proxy/edge/exchange.py"
_SERVING: Final = "partitiond/proxy/edge/serving.py"
_FRAMING: Final = "partitiond/proxy/engine/framing.py"
_REQUESTS: Final = "partitiond/proxy/request/requests.py"
_ACCEPTOR: Final = "partitiond/proxy/listening/acceptor.py"
_ATTEMPT: Final = "partitiond/proxy/edge/attempt.py"
_WORKERS: Final = "partitiond/proxy/workers/parent.py"
_CHANNEL: Final = "partitiond/proxy/workers/channel.py"
_LEAVING: Final = "tests/proxy/test_leaving.py::"

EDGE: Final[tuple[Rule, ...]] = (
    rule(
        "A worker that comes while the others are told to end ends as well.",
        "tests/proxy/workers/test_parent.py::"
        "test_a_worker_that_comes_while_the_others_are_told_to_end_ends_as_well",
        wrong=(
            (
                _WORKERS,
                "                    worker.kill()\n                    return None\n"
                "                self._workers.append(worker)\n",
                "                    pass\n                self._workers.append(worker)\n",
            ),
            (
                _WORKERS,
                "                if self._stop.is_set():  # all",
                "                if worker.leaving:  # all",
            ),
            (
                _WORKERS,
                "                if self._stop.is_set():  # all",
                "                if not self._stop.is_set():  # all",
            ),
        ),
    ),
    rule(
        "What a worker counted is missing at no moment, and not lost when it ends.",
        "tests/proxy/workers/test_channel.py",
        "tests/proxy/workers/test_parent.py::"
        "test_workers_are_replaced_under_load_without_a_failed_request",
        wrong=(
            (_CHANNEL, "await loop.sock_sendall(self._sending, ", "self._writer.write("),
            (_CHANNEL, "        async with self._turn:\n", "        if loop:\n"),
            (_CHANNEL, "if self._sending.fileno() < 0:", "if False:"),
            (
                _WORKERS,
                "        self._past.add(Samples(worker.last_metrics).counters())\n",
                "",
            ),
            (_WORKERS, "(w.last_metrics for w in self._workers)", "()"),
        ),
    ),
    rule(
        "A client that leaves is seen in every phase, also behind a request that runs.",
        f"{_LEAVING}test_while_another_request_waits_behind_the_one_that_runs",
        f"{_LEAVING}test_between_two_looks_at_its_connection",
        f"{_LEAVING}test_a_client_that_stays_gets_all_its_answers",
        wrong=(
            (
                _CONNECTION,
                "        elif self.flow.read_paused:\n            self.end_if_left()\n",
                "",
            ),
            (_CONNECTION, "select.POLLRDHUP)", "select.POLLIN)"),
            (_CONNECTION, "select.POLLRDHUP)", "0)"),
            (
                _LANE,
                "            if self.end_if_left():\n"
                "                return  # nobody waits for the next answer\n",
                "",
            ),
        ),
    ),
    rule(
        "The time for a body runs while it is read, and no longer.",
        f"{_LEAVING}test_the_time_for_a_body_runs_only_while_it_is_read",
        f"{_LEAVING}test_a_body_behind_another_request_has_its_time_once_it_is_read",
        wrong=(
            (
                _LANE,
                "elif self._exchange is not None and self._exchange is self._active:",
                "elif self._exchange is not None:",
            ),
            (
                _LANE,
                "            self._await_body(exchange)\n        else:\n"
                "            self._complete(exchange)",
                "            pass\n        else:\n            self._complete(exchange)",
            ),
            (
                _LANE,
                "            self.state.reading.add(exchange)\n"
                "            exchange.await_body(time.monotonic())\n",
                "            self.state.reading.add(exchange)\n",
            ),
        ),
    ),
    rule(
        "What waits behind the last answer of a connection never begins.",
        f"{_LEAVING}test_behind_a_client_that_takes_nothing_no_further_request_begins",
        "tests/proxy/test_bodies.py::"
        "test_a_body_behind_the_last_answer_of_a_connection_is_held_no_more",
        wrong=(
            (
                _SERVING,
                "        if reason == CLIENT_STALLED:\n"
                "            self.abort_client()  # first: else the next request of its "
                "connection would begin\n        self._end_attempt()\n        self._leave()\n"
                '        self._over("client_gone", reason)\n',
                "        self._end_attempt()\n        self._leave()\n"
                '        self._over("client_gone", reason)\n'
                "        if reason == CLIENT_STALLED:\n            self.abort_client()\n",
            ),
            (
                _LANE,
                "                one.client_gone()  # its turn never comes\n",
                "                pass\n",
            ),
            (
                _LANE,
                "        for one, _ in self._line:\n",
                "        for one, _ in list(self._line)[1:]:\n",
            ),
        ),
    ),
    rule(
        "Trailers end an answer, are headers, and are bounded together.",
        "tests/proxy/engine/test_framing.py",
        wrong=(
            (
                _FRAMING,
                "return MAX_TRAILER_BYTES - self._trailer_bytes if self._trailers "
                "else _MAX_SIZE_LINE",
                "return _MAX_SIZE_LINE",
            ),
            (
                _FRAMING,
                "return MAX_TRAILER_BYTES - self._trailer_bytes if self._trailers "
                "else _MAX_SIZE_LINE",
                "return MAX_TRAILER_BYTES if self._trailers else _MAX_SIZE_LINE",
            ),
            (
                _FRAMING,
                "return MAX_TRAILER_BYTES - self._trailer_bytes if self._trailers "
                "else _MAX_SIZE_LINE",
                "return MAX_TRAILER_BYTES",
            ),
            (
                _FRAMING,
                "if not colon or _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:",
                "if not colon:",
            ),
            (
                _FRAMING,
                "        if not line:\n            self.done = True\n            return\n",
                "        if not line or line:\n            self.done = True\n            return\n",
            ),
            (_FRAMING, "self._trailer_bytes += len(line) + 2", "self._trailer_bytes += len(line)"),
        ),
    ),
    rule(
        "A client's head, trailers and lines of chunks are bounded, and it is told.",
        "tests/proxy/test_protocol.py::test_an_endless_head_is_cut_off",
        "tests/proxy/test_protocol.py::test_a_head_that_never_ends_is_cut_off",
        "tests/proxy/test_protocol.py::test_half_a_head_behind_an_answer_is_told_so_too",
        "tests/proxy/test_protocol.py::test_a_body_in_many_small_chunks_is_no_endless_head",
        wrong=(
            (
                _LANE,
                "        self._bodiless_bytes += len(data)\n        if",
                "        if",
            ),
            (
                _LANE,
                '        """A piece of the body of the request that the parser is at."""\n'
                "        self._bodiless_bytes = 0\n",
                '        """A piece of the body of the request that the parser is at."""\n',
            ),
            (
                _LANE,
                "            self._refusal = TOO_MANY_CONNECTIONS if self._is_surplus else "
                'errors.HEAD_TOO_SLOW\n            self.send_400_response("")',
                "            super()._give_up_waiting()",
            ),
            (
                _LANE,
                "        self._refusal = head_too_large(self._options.max_header_bytes)\n"
                '        self.send_400_response("")\n',
                "        self.transport.abort()\n",
            ),
            (_LANE, "        self._head_bytes += size\n", "        self._head_bytes = size\n"),
        ),
    ),
    rule(
        "A number that nobody can read is refused by that reason, and any other is let through.",
        "tests/proxy/test_app.py::test_a_number_beyond_all_readers_is_refused_by_that_reason",
        "tests/proxy/test_app.py::test_large_numbers_that_can_be_read_reach_the_engine",
        "tests/proxy/test_app.py::test_wrong_requests_are_refused_before_an_engine_sees_them",
        wrong=(
            (
                _REQUESTS,
                'and not body.lstrip().startswith(b"{"):',
                "and body:",
            ),
            (
                _REQUESTS,
                'if isinstance(error, msgspec.ValidationError):\n        message = f"A number',
                'if not error:\n        message = f"A number',
            ),
            (
                _REQUESTS,
                "if type(value) is not int or not 0 <= value <= MAX_TOKENS_LIMIT:",
                "if not isinstance(value, (int, float)) or not 0 <= value <= MAX_TOKENS_LIMIT:",
            ),
            (
                _REQUESTS,
                "    except ValueError as error:\n        return _unreadable(error)\n"
                '    payload["model"]',
                '    except KeyError:\n        return body\n    payload["model"]',
            ),
        ),
    ),
    rule(
        "Where no file is left connections wait, and those that are lost are counted.",
        "tests/proxy/listening/test_acceptor.py",
        wrong=(
            (
                _ACCEPTOR,
                "self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)",
                "self._pause_seconds = FULL_SECONDS",
            ),
            (
                _ACCEPTOR,
                "        self._pause_seconds = FULL_SECONDS\n        return connection\n",
                "        return connection\n",
            ),
            (_ACCEPTOR, "        lost += not descriptors\n", ""),
            (
                _ACCEPTOR,
                "        if not _a_file_is_left(handoff):\n"
                "            return Taken(taken, lost, full=True)\n",
                "",
            ),
            (_ACCEPTOR, "if taken or lost else None", "if taken else None"),
            (_ACCEPTOR, "if now - self._told_at >= TELL_SECONDS:", "if now >= self._told_at:"),
        ),
    ),
    rule(
        "An engine's load is asked where the client asks and may know of replicas.",
        "tests/proxy/test_load_reports.py",
        wrong=(
            (
                _EXCHANGE,
                'b"" if self._state.options.debug_headers == "never" else self.head.load',
                "self.head.load",
            ),
            (
                _ATTEMPT,
                "head.load and self._exchange.load_line() and",
                "head.load and",
            ),
            (
                _ATTEMPT,
                "self._exchange.load_line() and _HEADER_VALUE.fullmatch(head.load):",
                "self._exchange.load_line():",
            ),
            (
                _ATTEMPT,
                'headers += b"endpoint-load-metrics: "',
                'headers = b"endpoint-load-metrics: "',
            ),
        ),
    ),
)
