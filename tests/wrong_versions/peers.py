"""What a host's proxy takes from another's, and what it costs when that one breaks or lies."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_FRAMES: Final = "partitiond/proxy/peers/frames.py"
_MESSAGES: Final = "partitiond/proxy/peers/messages.py"
_SOCKET: Final = "partitiond/proxy/peers/socket.py"
_STREAM: Final = "partitiond/proxy/peers/stream.py"
_LINK: Final = "partitiond/proxy/peers/link.py"
_OWNER: Final = "partitiond/proxy/peer_server/connection.py"
_REQUEST: Final = "partitiond/proxy/peer_server/request.py"
_EXCHANGE: Final = "partitiond/proxy/edge/exchange.py"
_QUARANTINE: Final = "partitiond/core/dispatch/quarantine.py"
_KNOWN: Final = "partitiond/proxy/peers/known.py"
_LIMITS: Final = "tests/proxy/peers/test_limits_over_a_hop.py"
_FAULTS: Final = "tests/proxy/peers/test_hop_faults.py"
_LIES: Final = "tests/proxy/peers/test_lies.py"
_OVER_HOPS: Final = "tests/proxy/peers/test_quarantine_over_hops.py"
_OPENING: Final = "partitiond/proxy/listening/handshakes.py"
_BURSTS: Final = "tests/proxy/peers/test_key_bursts.py"
_SERVED: Final = "tests/proxy/peers/test_who_is_served.py"
_SERVER: Final = "partitiond/proxy/peer_server/server.py"
_STATE: Final = "partitiond/proxy/edge/state.py"
_WAITS: Final = "tests/proxy/peers/test_waits_over_a_hop.py"
_FLEET: Final = "partitiond/core/dispatch/fleet.py"

PEERS: Final[tuple[Rule, ...]] = (
    rule(
        "No word of a peer becomes a line of a head, of a log or of a request to an engine.",
        _LIES,
        wrong=(
            (_MESSAGES, "_REQUEST_ID.fullmatch(asked.request_id)", "asked.request_id"),
            (_MESSAGES, "_TRACED.fullmatch(asked.traced) and", "True and"),
            (_MESSAGES, " and _LOAD.fullmatch(asked.load)", ""),
            (_MESSAGES, "_REPLICA_ID.fullmatch(placed.replica_id)", "placed.replica_id"),
            (_MESSAGES, "_HEADER_VALUE.fullmatch(value)", "True"),
            (_MESSAGES, " and _CODE.fullmatch(failed.code)", ""),
        ),
    ),
    rule(
        "An answer of a peer that is out of turn or out of shape ends its connection.",
        _LIES,
        wrong=(
            (_STREAM, "if not self.is_placed or self._has_head:", "if not self.is_placed:"),
            (_STREAM, "if not self.is_placed or self._has_head:", "if self._has_head:"),
            (_STREAM, "        if not self._has_head:\n", "        if False:\n"),
            (_MESSAGES, "200 <= head.status < 600", "head.status"),
            (_MESSAGES, "400 <= failed.status < 600", "failed.status"),
        ),
    ),
    rule(
        "A message of a peer nested without end is nonsense like any other, and no bug of ours.",
        f"{_LIES}::test_nonsense_ends_its_connection_and_no_other",
        wrong=(
            (_MESSAGES, "    except RecursionError as error:", "    except KeyError as error:"),
            (_STREAM, "        except ValueError:\n            raise\n", ""),
            (_SOCKET, "except (ValueError, RecursionError) as error:", "except KeyError as error:"),
        ),
    ),
    rule(
        "What a peer says of a request's cost keeps no other request from its turn or its place.",
        _LIES,
        wrong=(
            (_REQUEST, "least = 0 if", "least = 0 if True or"),
            (_MESSAGES, "math.isfinite(asked.weight)", "True"),
            (_MESSAGES, "waits >= 0.0 and", "True and"),
        ),
    ),
    rule(
        "A peer that does not send, does not read or does not end what it began is left.",
        f"{_LIES}::test_a_peer_that_never_sends_the_rest_of_its_requests_is_left",
        f"{_LIES}::test_a_peer_holds_no_more_of_incomplete_requests_than_all_clients",
        f"{_LIES}::test_an_owner_that_speaks_but_does_not_read_is_left",
        f"{_LIES}::test_a_stream_that_is_never_ended_is_not_remembered",
        wrong=(
            (_OWNER, "if now - request.received_at", "if 0.0 * now - request.received_at"),
            (
                _REQUEST,
                "            self._parts = []\n            self._state.release_body(self)\n",
                "            self._parts = []\n",
            ),
            (
                _REQUEST,
                "not self._state.hold_body(",
                "self._state.draining and self._state.hold_body(",
            ),
            (_LINK, "elif self.unread_seconds(now) > DEAD", "elif 0.0 > DEAD"),
            (
                _STREAM,
                "        if not self.over:\n            self._end()\n",
                "        self._receiver = None\n",
            ),
        ),
    ),
    rule(
        "What a peer sends takes no more memory or time than its size, however it comes.",
        _LIES,
        "tests/proxy/peers/test_frames.py",
        wrong=(
            (_FRAMES, "if self._kept_bytes < self._needed_bytes:", "if False:"),
            (_FRAMES, "self._needed_bytes = HEADER_BYTES + size", "pass"),
            (_FRAMES, "if size > MAX_PAYLOAD_BYTES:", "if False:"),
            (_STREAM, "if self._paused_bytes <= MAX_PAUSED_BYTES:", "if True:"),
            (_STREAM, "or self._places > MAX_PLACES", ""),
        ),
    ),
    rule(
        "A limit of a request at another host is judged by the side that knows whom it is about.",
        _LIMITS,
        wrong=(
            (_STREAM, "later_seconds = HOP_SECONDS", "later_seconds = 0.0"),
            (_REQUEST, "client_later_seconds = HOP_SECONDS", "client_later_seconds = 0.0"),
            (_EXCHANGE, "self._attempt.sent_at = time.monotonic()", "pass"),
        ),
    ),
    rule(
        "Two hosts retry a request within the share of one, and what was not reached is no retry.",
        f"{_LIMITS}::test_what_an_owner_tries_again_counts_as_its_entry_s_retry",
        wrong=(
            (_EXCHANGE, "self.model.retries.made_elsewhere()", "pass"),
            (_EXCHANGE, "if attempts > record.attempts:", "if True:"),
            (_REQUEST, "self.flight.attempts - self.flight.unreached", "self.flight.attempts"),
        ),
    ),
    rule(
        "What a host lost before it had a place may go there once more, if the host is back soon.",
        f"{_LIES}::test_a_host_that_loses_a_request_twice_is_not_asked_a_third_time",
        f"{_FAULTS}::test_a_request_that_a_reset_met_before_it_had_a_place_is_asked_again_once",
        f"{_LIMITS}::test_where_all_hosts_of_a_model_are_gone_for_long_nobody_waits",
        wrong=(
            (_EXCHANGE, "            wait.lost |= {hop.loads.host}\n", ""),
            (_EXCHANGE, "if failed is LOST and hop", "if False and hop"),
            (_KNOWN, "now - host.unheard_at < RETURN_SECONDS", "True"),
        ),
    ),
    rule(
        "A request that killed an engine of one host is carried to no other host.",
        _OVER_HOPS,
        wrong=(
            (
                _EXCHANGE,
                "            self._state.quarantine.died_elsewhere("
                "self._fingerprint(), time.monotonic())\n",
                "",
            ),
            (_EXCHANGE, "            self.suspected()\n", ""),
            (_QUARANTINE, "max(until, now + seconds), True", "max(until, now + seconds), False"),
            (_QUARANTINE, "self._note(fingerprint, now, suspect=True, alone=True)", "return"),
        ),
    ),
    rule(
        "A request waits as long as it may at all hosts together, and no longer.",
        _WAITS,
        wrong=(
            (_EXCHANGE, "time.monotonic() >= wait.latest", "False"),
            (_EXCHANGE, "now > wait.latest + wait.longest + HOP_SECONDS", "now > self._deadline"),
            (_EXCHANGE, "or wait.moves > 0", ""),
            (_KNOWN, "others < model.route.max_queue and", ""),
            (_KNOWN, "min(now + LEARN_SECONDS, wait.latest)", "now + LEARN_SECONDS"),
        ),
    ),
    rule(
        "What is on trial at one host goes to no other.",
        _WAITS,
        wrong=(
            (_EXCHANGE, "{QUARANTINED.code, ON_TRIAL}", "{QUARANTINED.code}"),
            (_EXCHANGE, "failed.refused and not is_suspect", "failed.refused"),
            (_EXCHANGE, 'ON_TRIAL: Final = "request_on_trial"', 'ON_TRIAL: Final = "on_trial"'),
        ),
    ),
    rule(
        "An entry knows which replicas its owner tried, and which it did not reach.",
        _WAITS,
        wrong=(
            (_EXCHANGE, "            flight.tried |= {record.replica_id}\n", ""),
            (_STREAM, "none of its replicas, so nothing was sent.\"\"\"\n        return True",
             "none of its replicas, so nothing was sent.\"\"\"\n        return False"),
            (_STREAM, "return self._stream.is_lost", "return True"),
            (_EXCHANGE, "        if self._failure is None:\n            self._fail(_as_error(told)",
             "        if True:\n            self._fail(_as_error(told)"),
            (_FLEET, "if best is None and not own.places.loads():", "if False:"),
        ),
    ),
    rule(
        "Who is no host of the fleet any more is served nothing further, by its open connections.",
        _SERVED,
        wrong=(
            (_SERVER, "            self._check_known()\n", ""),
            (_SERVER, "if not socket.authorities <= self._authorities():", "if False:"),
            (_LINK, "self.leave()  # the next connection", "pass  #"),
            (_OWNER, "        elif self._is_refused:\n", "        elif False:\n"),
            (_OWNER, "            self.finish()\n            return\n", "            pass\n"),
            (_KNOWN, "if is_renamed or wanted", "if wanted"),
            (_SERVER, "_address(name) for name in names", "name for name in names"),
        ),
    ),
    rule(
        "An entry that does not read is read no further, and left if it reads nothing at all.",
        f"{_LIES}::test_of_an_entry_that_reads_no_answers_no_requests_are_read",
        f"{_LIES}::test_an_entry_that_speaks_but_does_not_read_is_left",
        f"{_LIES}::test_an_entry_that_reads_slowly_is_not_left_while_it_is_not_read",
        f"{_LIES}::test_all_connections_of_a_host_have_no_more_requests_than_one",
        wrong=(
            (_OWNER, "            self._read_on_later()\n", "            pass\n"),
            (_OWNER, "            self.transport.resume_reading()\n", "            pass\n"),
            (_OWNER, "if self.unread_seconds(now) > DEAD", "if 0.0 > DEAD"),
            (_OWNER, "if self._is_reading and now - self.heard_at", "if now - self.heard_at"),
            (_OWNER, "            return  # what does not come", "            pass  # what"),
            (_OWNER, "len(self._requests) + self.elsewhere >=", "len(self._requests) >="),
        ),
    ),
    rule(
        "Strangers and slow hosts keep no client of a host out, and fill no log.",
        "tests/proxy/listening/test_handshakes.py",
        _SERVED,
        wrong=(
            (_OPENING, "            oldest.cancel()\n", "            pass\n"),
            (_OPENING, "            del self._tasks[oldest]\n", ""),
            (_OPENING, "        if task.cancelled():  # before it began\n", "        if False:\n"),
            (_OWNER, "request.refuse(errors.BODY_TOO_SLOW)", "pass"),
            (_STATE, "if self._peers_body_bytes + more > most:", "if False:"),
            (_LINK, "        if not self._client.has_complained:\n", "        if True:\n"),
            (_OWNER, "        if complaints.get(self.called) == reason:\n", "        if False:\n"),
            (_OWNER, "len(model.route.defaults_json)", "0"),
        ),
    ),
    rule(
        "A listener is closed at any moment without an error in the log, and needs no file for it.",
        "tests/proxy/listening/test_handshakes.py",
        wrong=(
            (_OPENING, "self._loop.remove_reader(self._listener)\n        if", "if"),
            (_OPENING, "            self._pause.cancel()\n", "            pass\n"),
            (_OPENING, "            self._complaint.tell(error)\n", "            raise\n"),
        ),
    ),
    rule(
        "Who lacks a portion alone waits for one, for a moment, and ends as any request does.",
        _BURSTS,
        wrong=(
            (_EXCHANGE, "isinstance(admitted, RejectedForNow) and", "False and"),
            (_EXCHANGE, "isinstance(admitted, RejectedForNow) and", ""),
            (_EXCHANGE, "if longest is None else min(PORTION_SECONDS, longest)", ""),
            (_EXCHANGE, "has_patience and waits < MOST_PORTION_WAITS", "has_patience"),
            (_EXCHANGE, "            state.reading.add(self)  # which is told of a shutdown\n", ""),
            (_EXCHANGE, "        state.reading.discard(self)\n", ""),
            (_EXCHANGE, "        waits[self._caller.key_id] -= 1\n", ""),
            (_EXCHANGE, "            elif self.phase is Phase.READING:\n", "            else:\n"),
        ),
    ),
)  # fmt: skip
