"""What outlives a process: bodies, engines that cannot be read, the run folder, the journal."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_SERDE: Final = "partitiond/serde.py"
_SESSIONS: Final = "partitiond/store/sessions.py"
_STORE: Final = "partitiond/store/repository.py"
_LOOP: Final = "partitiond/controller/runtime/loop.py"
_ENGINES: Final = "partitiond/controller/runtime/engines.py"
_UNREAD: Final = "partitiond/controller/runtime/unreadable.py"
_JOURNAL: Final = "partitiond/engines/process/journal.py"
_RUNNER: Final = "partitiond/engines/process/runner.py"
_PROCESS: Final = "partitiond/engines/process/signals.py"
_FOLDER: Final = "partitiond/run_folder.py"
_HEAD: Final = "partitiond/hosts/head.py"
_DEVICES: Final = "partitiond/devices/partitions/journal.py"
_CONTROL: Final = "partitiond/devices/partitions/control.py"
_TEST_LOOP: Final = "tests/controller/runtime/test_loop.py::"
_TEST_RUNNER: Final = "tests/engines/process/test_runner.py::"
_TEST_CONTROL: Final = "tests/devices/partitions/test_control.py::"

BODIES: Final[tuple[Rule, ...]] = (
    rule(
        "A body that outlives its process says its version; unknown fields are ignored.",
        "tests/bodies/test_bodies.py",
        "tests/store/test_set_aside.py",
        wrong=(
            (_SERDE, 'validate_python(data, extra="ignore")', "validate_python(data)"),
            (_SERDE, 'validate_json(text, extra="ignore")', "validate_json(text)"),
            (
                _SERDE,
                "return {VERSION_FIELD: BODY_VERSION, **to_jsonable(value)}",
                "return {**to_jsonable(value)}",
            ),
            (
                _SERDE,
                "return {VERSION_FIELD: BODY_VERSION, **to_jsonable(value)}",
                'return {"version": BODY_VERSION, **to_jsonable(value)}',
            ),
            (
                _SESSIONS,
                "            return serde.from_stored_json(kind, text)\n",
                "            return serde.from_json(kind, text)\n",
            ),
        ),
    ),
    rule(
        "A body of the store that cannot be read is set aside, and told once.",
        "tests/store/test_set_aside.py",
        wrong=(
            (
                _SESSIONS,
                "                self._set_aside(what, error)\n",
                "                raise\n",
            ),
            (
                _SESSIONS,
                "            self._unread[what] = UnreadBody(what, error.message)\n",
                "            pass\n",
            ),
            (
                _SESSIONS,
                "        if what not in self._unread:\n            log.error",
                "        if what:\n            log.error",
            ),
            (
                _STORE,
                "            return next(iter(self._readable(Plan, rows)), None)\n",
                "            return next((self._parse(Plan, *one) for one in rows), None)\n",
            ),
        ),
    ),
    rule(
        "A plan that cannot be read ends nothing: what runs stays.",
        f"{_TEST_LOOP}test_of_a_plan_that_cannot_be_read_what_runs_stays",
        wrong=(
            (
                _LOOP,
                "        if self._lost_plan:\n            self._keep_what_runs()\n",
                "",
            ),
            (
                _LOOP,
                'self._lost_plan = lost[-1] if self.plan is None and lost else ""',
                'self._lost_plan = ""',
            ),
            (
                _LOOP,
                "            self.plan = dataclasses.replace(self.plan, "
                "devices=self._devices.devices)\n",
                "            pass\n",
            ),
            (_UNREAD, "        placements=tuple(kept.values()),\n", "        placements=(),\n"),
        ),
    ),
    rule(
        "An engine whose launch cannot be read is drained, and never killed.",
        f"{_TEST_LOOP}test_an_engine_that_cannot_be_read_finishes_what_runs_and_ends",
        f"{_TEST_LOOP}test_at_the_drain_deadline_an_engine_that_cannot_be_read_ends",
        f"{_TEST_LOOP}test_an_engine_that_cannot_be_read_is_replaced_beside_it",
        f"{_TEST_LOOP}test_the_memory_of_an_engine_that_cannot_be_read_is_not_given_out",
        wrong=(
            (
                _LOOP,
                "profiled = [h for h in handles if h.launch.placement is None and not h.unread]",
                "profiled = [h for h in handles if h.launch.placement is None]",
            ),
            (
                _LOOP,
                "                if handle.unread:\n"
                "                    self._drain_unread(handle)\n"
                "                elif placement is not None",
                "                if placement is not None",
            ),
            (
                _ENGINES,
                "            self._happen(ReplicaEvent.BECAME_READY)\n            self.drain()\n"
                "            self.settled.set()\n",
                "            self._happen(ReplicaEvent.BECAME_READY)\n"
                "            self.settled.set()\n",
            ),
            (
                _ENGINES,
                "        if handle.unread:\n            await asyncio.Event().wait()\n",
                "",
            ),
            (
                _LOOP,
                "            devices=room_beside(self.engines, self._devices.room(self.plan)),\n",
                "            devices=self._devices.room(self.plan),\n",
            ),
            (
                _LOOP,
                "believed and engine.live and is_countable(engine)",
                "believed and engine.live",
            ),
        ),
    ),
    rule(
        "A living engine is found whatever its folder's files say, and one that died is cleared.",
        f"{_TEST_RUNNER}test_an_engine_of_a_later_release_is_found_as_any_other",
        f"{_TEST_RUNNER}test_an_engine_whose_launch_cannot_be_read_is_found_and_left_alone",
        f"{_TEST_RUNNER}test_a_supervisor_that_cannot_be_read_is_found_by_its_mark",
        f"{_TEST_RUNNER}test_a_name_that_only_a_shortened_folder_tells_is_not_the_engines",
        f"{_TEST_RUNNER}test_of_a_dead_engine_that_cannot_be_read_nothing_is_left",
        "tests/engines/process/test_signals.py::test_the_leader_of_a_replica_leads_a_session",
        wrong=(
            (
                _RUNNER,
                "handle = folder.handle() or await asyncio.to_thread(folder.unread_handle)",
                "handle = folder.handle()",
            ),
            (
                _JOURNAL,
                'return process.leader_of(self.path) if self._has("process.json") else None',
                "return None",
            ),
            (
                _JOURNAL,
                'return serde.from_stored_json(EngineLaunch, (self.path / "launch.json")'
                ".read_bytes())",
                'return serde.from_json(EngineLaunch, (self.path / "launch.json").read_bytes())',
            ),
            (
                _JOURNAL,
                "named=launch.replica_id != self.path.name or not "
                "_SHORTENED.search(self.path.name),",
                "named=True,",
            ),
            (
                _RUNNER,
                "if handle is not None and process.is_alive(_identity(handle)):",
                "if handle is not None:",
            ),
            (
                _PROCESS,
                "        if fields and ticks is not None and int(fields[3]) == pid:\n",
                "        if fields and ticks is not None:\n",
            ),
        ),
    ),
    rule(
        "Corrections, releases and models that cannot be read keep no daemon from starting.",
        "tests/store/test_set_aside.py::test_a_daemon_starts_and_lists_the_others",
        wrong=(
            (
                "partitiond/controller/drift/marks.py",
                "    except InputError as error:\n",
                "    except NotFoundError as error:\n",
            ),
            (
                "partitiond/controller/drift/marks.py",
                "            except NotFoundError:\n",
                "            except (NotFoundError, StoreError):\n",
            ),
            (
                "partitiond/controller/drift/marks.py",
                "            except StoreError as error:",
                "            except InputError as error:",
            ),
            (
                "partitiond/controller/profiles/catalog.py",
                "        except (NotFoundError, StoreError):  # the latter",
                "        except NotFoundError:  # the latter",
            ),
            (
                "partitiond/store/release_repository.py",
                "        except ValueError as error:\n",
                "        except KeyError as error:\n",
            ),
        ),
    ),
    rule(
        "A run folder is its owner's: another daemon neither adopts nor ends what runs there.",
        "tests/test_run_folder.py",
        wrong=(
            (
                _FOLDER,
                "        if running:\n            what",
                "        if not running:\n            what",
            ),
            (
                _FOLDER,
                "    if owner is not None and not Path(owner).is_dir():\n        return []\n",
                "",
            ),
            (
                _FOLDER,
                'running = [] if other in ("", mine) else',
                "running = [] if other != mine else",
            ),
            (
                _FOLDER,
                'running = [] if other in ("", mine) else',
                'running = [] if other in (None, "", mine) else',
            ),
            (
                _FOLDER,
                "    except (OSError, InputError):\n        return None\n",
                "    except (OSError, InputError):\n        return str(folder.parent)\n",
            ),
            (
                _FOLDER,
                '    except FileNotFoundError:\n        return RunFolderOwner("")\n',
                "",
            ),
            (_FOLDER, "        _write(folder, owner)\n        yield", "        yield"),
            (
                _FOLDER,
                "    return engines + daemons + endpoint\n",
                "    return daemons + endpoint\n",
            ),
            (
                _FOLDER,
                "    return engines + daemons + endpoint\n",
                "    return engines + endpoint\n",
            ),
            (
                _FOLDER,
                "    return engines + daemons + endpoint\n",
                "    return engines + daemons\n",
            ),
            (
                _FOLDER,
                "serde.from_stored_json(RunFolderOwner,",
                "serde.from_json(RunFolderOwner,",
            ),
        ),
    ),
    rule(
        "A run folder obeys its head, and heads of a higher epoch, while anything runs there.",
        "tests/test_run_folder.py::"
        "test_what_a_later_control_plane_left_running_is_not_for_one_that_was_overtaken",
        "tests/test_run_folder.py::"
        "test_whose_processes_run_is_forgotten_with_the_state_folder_that_they_were_of",
        "tests/test_daemon.py::"
        "test_a_head_that_was_overtaken_is_refused_what_the_later_one_left_running",
        "tests/test_daemon.py::test_a_control_plane_that_is_to_be_a_head_is_one_before_it_adopts",
        wrong=(
            (_FOLDER, "epoch > was.epoch else", "epoch >= was.epoch else"),
            (_FOLDER, "now == was or epoch > was.epoch", "epoch > was.epoch"),
            (_FOLDER, "now == was or epoch > was.epoch", "now == was"),
            (_FOLDER, "now == was or epoch > was.epoch", "head == was.head or epoch > was.epoch"),
            (_FOLDER, "            _write(self._folder, now)\n", "            pass\n"),
            (_FOLDER, "_what_runs(self._folder, was.state_dir)", "['all']"),
            (_FOLDER, "owner is not None and other == mine else", "False else"),
            (_FOLDER, "owner is not None and other == mine else", "owner is not None else"),
            (_HEAD, "having_seen(known, seen)", "known"),
            (
                _HEAD,
                "    if record is None and is_head:\n",
                "    if record is None and not is_head:\n",
            ),
            (
                "partitiond/daemon.py",
                "        claim_run_folder(run_folder.claim, store, at, is_head=is_head)\n",
                "",
            ),
        ),
    ),
    rule(
        "A GPU instance of an earlier boot is not ours, and one bad entry spoils no other.",
        f"{_TEST_CONTROL}test_an_instance_made_after_a_reboot_at_our_place_stays",
        f"{_TEST_CONTROL}test_an_instance_of_this_boot_is_ours_to_destroy",
        f"{_TEST_CONTROL}test_mps_and_mig_mode_of_an_earlier_boot_are_still_undone",
        f"{_TEST_CONTROL}test_entries_of_a_kind_of_a_later_release_do_not_spoil_the_others",
        "tests/bodies/test_bodies.py::test_the_device_journal_is_read",
        wrong=(
            (
                _DEVICES,
                "        if entry.kind is not EntryKind.MIG_INSTANCE or entry.boot_id in "
                '("", now) or not now\n',
                "",
            ),
            (
                _DEVICES,
                "        if entry.kind is not EntryKind.MIG_INSTANCE or entry.boot_id in "
                '("", now) or not now\n',
                '        if entry.boot_id in ("", now) or not now\n',
            ),
            (
                _DEVICES,
                "        if entry.kind is not EntryKind.MIG_INSTANCE or entry.boot_id in "
                '("", now) or not now\n',
                "        if entry.kind is not EntryKind.MIG_INSTANCE or entry.boot_id == now\n",
            ),
            (
                _DEVICES,
                "EntryState.PLANNED, boot_id=boot_id())",
                'EntryState.PLANNED, boot_id="before")',
            ),
            (
                _DEVICES,
                "            entries.append(serde.from_stored(Entry, body))\n"
                "        except InputError as error:\n"
                "            problems.append(error.message)\n",
                "            entries.append(serde.from_stored(Entry, body))\n"
                "        except InputError as error:\n            return (), error.message\n",
            ),
        ),
    ),
    rule(
        "Under an engine that cannot be read nothing of its device is undone.",
        f"{_TEST_CONTROL}test_under_an_engine_that_cannot_be_read_nothing_is_undone",
        wrong=(
            (
                _CONTROL,
                "                self._keep_for(handle)\n",
                "                pass\n",
            ),
            (
                _CONTROL,
                "        if partition is None:\n"
                "            self._journal.leave(launch.replica_id)\n",
                "",
            ),
            (
                _CONTROL,
                "here = not device_id or entry.device_id == device_id",
                "here = entry.device_id == device_id",
            ),
            (
                _CONTROL,
                "here = not device_id or entry.device_id == device_id",
                "here = not device_id or entry.device_id != device_id",
            ),
        ),
    ),
    rule(
        "Records of MPS daemons and budgets are read as every release writes them.",
        "tests/bodies/test_bodies.py",
        wrong=(
            (
                "partitiond/devices/mps/record.py",
                '        process = found["process"]\n',
                '        process = found.get("process")\n',
            ),
            (
                "partitiond/devices/mps/record.py",
                '        process = found["process"]\n',
                '        process = found["process"]\n        int(found["body_version"])\n',
            ),
            (
                "partitiond/core/keys/rates.py",
                'use = BudgetUse(BudgetPeriod(one["period"]), float(one["start"]), '
                'float(one["tokens"]))',
                "use = BudgetUse(**one)",
            ),
        ),
    ),
)
