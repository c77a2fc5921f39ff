"""What the event loop does again and again, and what it does while the store is locked."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_DEMANDS: Final = "partitiond/controller/plans/demands.py"
_ROWS: Final = "partitiond/api/profile_rows.py"
_STALENESS: Final = "partitiond/controller/profiles/staleness.py"
_TARGETS: Final = "partitiond/controller/profiles/targets.py"
_ROUTES: Final = "partitiond/controller/runtime/routes.py"
_HOLDINGS: Final = "partitiond/controller/runtime/engine_matching.py"
_LOOP: Final = "partitiond/controller/runtime/loop.py"
_JOURNAL: Final = "partitiond/controller/journal.py"
_STORE: Final = "partitiond/store/repository.py"
_SESSIONS: Final = "partitiond/store/sessions.py"
_WAITS: Final = "partitiond/controller/store_waits.py"
_ENDPOINT: Final = "partitiond/controller/runtime/proxy_process.py"
_JOBS: Final = "partitiond/controller/profiles/jobs.py"
_PROFILING: Final = "partitiond/controller/profiles/profiling.py"
_REPLIES: Final = "partitiond/api/replies.py"
_APP: Final = "partitiond/api/app.py"
_DRIFT: Final = "partitiond/controller/drift/use_cases.py"
_EVENTS: Final = "partitiond/store/event_repository.py"
_USAGE: Final = "partitiond/store/usage_repository.py"
_ENGINE: Final = "partitiond/controller/runtime/engines.py"
_SLEEPING: Final = "partitiond/controller/runtime/sleeping.py"
_REGISTRY: Final = "partitiond/controller/models/registry.py"
_ASSEMBLY: Final = "partitiond/controller/assembly.py"
_PROXY_STATE: Final = "partitiond/proxy/edge/state.py"
_PARENT: Final = "partitiond/proxy/workers/parent.py"
_CHECKSUMS: Final = "partitiond/models/checksums.py"
_DEMO: Final = "partitiond/cli/demo/steps.py"
_ORDER: Final = "tests/order.py"
_TEST_LOOP: Final = "tests/controller/runtime/test_loop.py::"
_WORK: Final = "tests/controller/test_loop_work.py::"
_LOCKED: Final = "tests/controller/test_locked_store.py::"

LOOP: Final[tuple[Rule, ...]] = (
    rule(
        "What plans are made from is made anew only where it has changed, and always there.",
        f"{_WORK}test_what_did_not_change_is_made_once_for_all_plans",
        f"{_WORK}test_what_is_stale_is_compared_again_once_anything_has_changed",
        wrong=(
            (_DEMANDS, ".made_from != one", ".made_from is not one"),
            (
                _DEMANDS,
                "for name, one in known.items() if name in registered",
                "for name, one in ()",
            ),
            (_DEMANDS, " or known[one.spec.name].made_from != one", ""),
            (_TARGETS, "known[1] is not kept or known[0] != spec", "True"),
            (_TARGETS, " or known[1] is not kept or known[0] != spec", ""),
            (_STALENESS, "known is None or known[0] != basis", "known is None"),
            (_STALENESS, "found is None or found[0] is not profile", "found is None"),
            (_STALENESS, "found is None or found[0] is not profile", "True"),
        ),
    ),
    rule(
        "A profile is serialised once, and again when there is another under its id.",
        f"{_WORK}test_a_profile_is_serialised_once_for_all_lists",
        wrong=(
            (_ROWS, "found is not None and found[0] is profile", "False"),
            (_ROWS, "found is not None and found[0] is profile", "found is not None"),
            (_ROWS, "{} if complete else dict(self._known)", "{}"),
        ),
    ),
    rule(
        "Each model and each place is shown its own engines alone.",
        f"{_WORK}test_each_model_is_routed_by_its_own_engines_alone",
        f"{_WORK}test_each_place_is_compared_with_its_own_replicas_engines_alone",
        "tests/controller/runtime/test_routes.py",
        wrong=(
            (_ROUTES, "running.get(name, ())", "engines"),
            (
                _ROUTES,
                "lambda engine: engine.observed.placement.model)",
                "lambda engine: engine.name)",
            ),
            (
                _ROUTES,
                "[e.observed.placement for e in own if",
                "[e.observed.placement for e in engines if",
            ),
        ),
    ),
    rule(
        "A pass starts so many engines, does all else, and writes its events at once.",
        f"{_WORK}test_a_pass_starts_so_many_engines_and_does_all_else",
        f"{_WORK}test_what_one_plan_changes_is_written_at_once",
        f"{_WORK}test_what_is_noted_in_a_block_that_breaks_is_written_as_well",
        f"{_WORK}test_no_transaction_holds_more_events_than_take_some_tens_of_milliseconds",
        wrong=(
            (_LOOP, "starts[STARTS_PER_PASS:]", "starts[STARTS_PER_PASS + 1 :]"),
            (_LOOP, "starts[STARTS_PER_PASS:]", "actions[STARTS_PER_PASS:]"),
            (_JOURNAL, "if not self._together:", "if True:"),
            (
                _JOURNAL,
                "        finally:\n            self._together = False\n            self.save()\n",
                "        finally:\n            self._together = False\n",
            ),
            (_JOURNAL, "itertools.islice(self._unsaved, MOST_AT_ONCE)", "self._unsaved"),
        ),
    ),
    rule(
        "Keys that did not change are not read again, and lists are what the file holds.",
        f"{_WORK}test_a_key_that_changes_has_no_other_key_read_again",
        wrong=(
            (_STORE, "None if known is None else (*known, key)", "None"),
            (_STORE, "tuple(one for one in known if one.id != key_id)", "known"),
            (_STORE, "tuple(key if one.id == key.id else one for one in known)", "known"),
        ),
    ),
    rule(
        "Windows that fill at once are judged so many per look, each in its turn and as a whole.",
        "tests/controller/drift/test_use_cases.py::"
        "test_of_windows_that_fill_at_once_a_look_judges_so_many_and_writes_them_together",
        wrong=(
            (_DRIFT, "in full[:JUDGED_PER_LOOK]", "in full"),
            (_DRIFT, "in unknown[:REMEMBERED_PER_LOOK]", "in unknown"),
            (_DRIFT, "        full.sort(key=lambda one: one[0].began_at)\n", ""),
            (
                _DRIFT,
                "                full.append((gathered, name, window))\n",
                "                full.append((gathered, name, window))\n"
                "                watched.gathered = OpenWindow(at, gathered.last, gathered.last)\n",
            ),
            (
                _DRIFT,
                "        self._keep([entry for _, entry, _ in seen])\n",
                "        for _, entry, _ in seen:\n            self._keep([entry])\n",
            ),
            (
                _DRIFT,
                "in serving.items():  # those that",
                "in [one for one in serving.items() if one[0] in self._watched]:  # those that",
            ),
        ),
    ),
    rule(
        "Hundreds of keys and events are written in a few statements, as one by one.",
        f"{_WORK}test_what_many_keys_used_is_booked_in_as_many_statements_as_of_one",
        f"{_WORK}test_many_events_are_written_in_one_statement_and_keep_their_order",
        wrong=(
            (_USAGE, "getattr(UsageRow, field.name) + getattr(", "getattr("),
            (_USAGE, "        if known.get(subject) != value\n", "        if subject in known\n"),
            (_USAGE, "known.keys() - wanted.keys()", "()"),
            (
                _USAGE,
                "                session.connection().execute(_ADD_USAGE, rows)\n",
                "                for row in rows:\n"
                "                    session.connection().execute(_ADD_USAGE, row)\n",
            ),
            (_EVENTS, "enumerate(events, 1)", "enumerate(events)"),
            (_EVENTS, "last - len(events) + number", "number"),
        ),
    ),
    rule(
        "What requests and windows are read with is there before they come.",
        f"{_WORK}test_no_request_waits_for_what_reads_requests_to_be_built",
        f"{_WORK}test_what_is_kept_of_a_profile_is_not_read_again",
        wrong=(
            (
                _APP,
                "    for route in together.routes:\n",
                "    for route in together.routes[:0]:\n",
            ),
            (
                _APP,
                "    for route in together.routes:\n",
                "    for route in together.routes[:1]:\n",
            ),
            (
                _STORE,
                "        if known is not None:\n            return known\n        with",
                "        with",
            ),
            (_STORE, "one.id == profile_id", "one.id <= profile_id"),
        ),
    ),
    rule(
        "Nobody waits in the event loop for a store that another process has locked.",
        "tests/store/test_locked.py",
        f"{_LOCKED}test_many_wait_in_one_thread",
        wrong=(
            (
                _SESSIONS,
                "                self._locked_at = time.monotonic()\n",
                "                pass\n",
            ),
            (
                _SESSIONS,
                "            raise store_error(self.path, error) from error\n"
                "        self._locked_at = -math.inf\n",
                "            raise store_error(self.path, error) from error\n",
            ),
            (_WAITS, "self._waiting is None or self._waiting.done()", "True"),
            (_WAITS, "self._waiting is None or self._waiting.done()", "self._waiting is None"),
        ),
    ),
    rule(
        "While the store is locked routes are withdrawn, and nothing measured or noted is lost.",
        f"{_LOCKED}test_an_engine_that_dies_is_replaced_and_its_route_withdrawn",
        f"{_LOCKED}test_what_was_measured_is_kept_once_the_lock_is_gone",
        f"{_LOCKED}test_a_job_that_ends_has_ended_as_soon_as_the_lock_is_gone",
        f"{_LOCKED}test_whoever_changes_something_is_told_to_ask_again",
        wrong=(
            (
                _ENDPOINT,
                "        except StoreError as error:\n",
                "        except KeyError as error:\n",
            ),
            (
                _PROFILING,
                "await self._write(lambda: self._store.add_profile(profile))",
                "self._store.add_profile(profile)",
            ),
            (_JOBS, "                    await self._write(end)\n", "                    end()\n"),
            (_REPLIES, "request.method not in SAFE_METHODS", "request.method in SAFE_METHODS"),
        ),
    ),
    rule(
        "An adopted engine with requests in flight keeps its route, and an idle one answers first.",
        f"{_TEST_LOOP}test_an_adopted_engine_with_requests_in_flight_keeps_its_route",
        f"{_TEST_LOOP}test_an_adopted_engine_that_is_idle_serves_once_it_answers",
        wrong=(
            (_ENGINE, "if self.adopted and self.in_flight:", "if False:"),
            (_ENGINE, "if self.adopted and self.in_flight:", "if self.adopted:"),
            (_ENGINE, "        self.in_flight = in_flight\n", ""),
            (_LOOP, "in_flight=counts.get(name) if handle.named else None", "in_flight=None"),
        ),
    ),
    rule(
        "What an engine was too busy to say of itself is asked again.",
        f"{_TEST_LOOP}test_an_engine_that_was_too_busy_to_report_is_asked_again",
        wrong=(
            (_ENGINE, "if not missed and self.report is None and", "if False and"),
            (_ENGINE, "if not missed and self.report is None and", "if missed and"),
            (
                _ENGINE,
                "        with contextlib.suppress(EngineError):\n"
                "            self.report = await self._runner.report(handle)\n",
                "        with contextlib.suppress(EngineError):\n"
                "            await self._runner.report(handle)\n",
            ),
        ),
    ),
    rule(
        "A change whose telling failed counts as neither told nor untold, and is told again.",
        "tests/controller/runtime/test_endpoint.py",
        wrong=(
            (_ENDPOINT, "            self._unsure = True\n", ""),
            (_ENDPOINT, "not None and not self._unsure and _same", "not None and _same"),
            (
                _ENDPOINT,
                "self.table is None or self._unsure or not holds",
                "self.table is None or not holds",
            ),
            (_ENDPOINT, "if self.table is None or self._unsure:", "if self.table is None:"),
            (_ENDPOINT, "self.table, self._unsure = table, False", "self.table = table"),
        ),
    ),
    rule(
        "A table that the disk refuses is in force, is said to be unstored, and stored later.",
        "tests/proxy/test_supervisor.py::"
        "test_a_table_that_cannot_be_stored_is_in_force_and_stored_once_it_can_be",
        wrong=(
            (_PROXY_STATE, "        if unwritten is not None:\n            raise unwritten\n", ""),
            (
                _PROXY_STATE,
                "            self.take_over(table)\n        self.word",
                "            if unwritten is None:\n                self.take_over(table)\n"
                "        self.word",
            ),
            (
                _PARENT,
                "            if unwritten is not None:\n                raise unwritten\n",
                "",
            ),
        ),
    ),
    rule(
        "Nothing is put to sleep that a head which was overtaken could not wake.",
        "tests/controller/runtime/test_sleeping.py",
        "tests/controller/test_overtaken.py",
        wrong=(
            (_SLEEPING, "        if self._overtaken():\n            return\n", ""),
            (_REGISTRY, "if why := self._devices.overtaken:", 'if why := "":'),
            (_ASSEMBLY, "overtaken=lambda: self.devices.overtaken,", "overtaken=str,"),
        ),
    ),
    rule(
        "A checksum that is told is on the disk, and what is on the disk is known.",
        "tests/models/test_copies.py",
        wrong=(
            (_CHECKSUMS, "            self._save(known)\n", ""),
            (
                _CHECKSUMS,
                "            self._save(known)\n",
                "            self._save(self._known)\n",
            ),
            (
                _CHECKSUMS,
                "            self._known = known  # only now",
                "            pass  # only now",
            ),
        ),
    ),
    rule(
        "The demo's SLO is doubled until both models hold it, and not before they miss it.",
        "tests/cli/demo/test_demo.py",
        wrong=(
            (_DEMO, "if all(operating_point(profile, slo)", "if any(operating_point(profile, slo)"),
            (_DEMO, "Slo(2 * slo.ttft_seconds, 2 *", "Slo(3 * slo.ttft_seconds, 3 *"),
            (
                _DEMO,
                "            break\n        slo = Slo(2",
                "            pass\n        slo = Slo(2",
            ),
            (_DEMO, "for _ in range(10):", "for _ in range(2):"),
        ),
    ),
    rule(
        "On a slow machine no test begins after the deadline, and what says most begins first.",
        "tests/structure/test_order.py",
        wrong=(
            (_ORDER, "time.time() > float(deadline)", "time.time() < float(deadline)"),
            (_ORDER, "if deadline is not None and time", "if time"),
            (_ORDER, "(item.nodeid.startswith(FURTHER), not _starts", "(False, not _starts"),
            (_ORDER, "not _starts_engines(item.path))\n", "_starts_engines(item.path))\n"),
        ),
    ),
)
