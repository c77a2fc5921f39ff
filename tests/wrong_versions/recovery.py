"""The chain beside profile jobs, leases, jobs, pruning."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_CHAIN: Final = "partitiond/controller/plans/chain.py"
_PLANS: Final = "partitiond/controller/plans/use_cases.py"
_SOLVES: Final = "partitiond/controller/plans/queue.py"
_JOBS: Final = "partitiond/controller/profiles/jobs.py"
_JOB_ROOM: Final = "partitiond/controller/profiles/job_room.py"
_LEASES: Final = "partitiond/core/replica/leases.py"
_SITUATION: Final = "partitiond/controller/plans/situation.py"
_HOLDINGS: Final = "partitiond/controller/runtime/engine_matching.py"
_EVICTING: Final = "partitiond/controller/demand/room.py"
_ASSEMBLY: Final = "partitiond/controller/assembly.py"
_STORE: Final = "partitiond/store/repository.py"
_RECONCILE: Final = "partitiond/core/replica/reconcile.py"
_LOST: Final = "partitiond/core/replica/lost.py"
_CONVERGENCE: Final = "partitiond/core/replica/convergence.py"
_PRUNING: Final = "partitiond/controller/profiles/pruning.py"
_SHELF: Final = "partitiond/controller/profiles/catalog.py"
_TEST_CHAIN: Final = "tests/controller/plans/test_chain.py::"
_TEST_JOBS: Final = "tests/controller/profiles/test_jobs.py::"
_TEST_STORE: Final = "tests/store/test_repository.py::"
_TEST_RECOVERY: Final = "tests/controller/test_recovery.py::"

RECOVERY: Final[tuple[Rule, ...]] = (
    rule(
        "A plan for an under-served model waits for no profile job.",
        f"{_TEST_CHAIN}test_for_an_under_served_model_a_plan_is_made_while_a_job_runs",
        f"{_TEST_CHAIN}test_no_job_begins_while_a_plan_for_an_under_served_model_is_due_or_made",
        f"{_TEST_CHAIN}test_a_plan_for_an_under_served_model_that_is_outdated_is_made_again",
        f"{_TEST_CHAIN}test_while_a_job_runs_nothing_is_planned",
        f"{_TEST_CHAIN}test_a_job_that_starts_during_the_solve_puts_the_plan_off",
        wrong=(
            (
                _CHAIN,
                "        elif self._helped or not self._pressing():\n            return\n",
                "        else:\n            return\n",
            ),
            (
                _CHAIN,
                "        elif self._helped or not self._pressing():\n            return\n",
                "        elif self._helped:\n            return\n",
            ),
            (
                _CHAIN,
                "        elif self._helped or not self._pressing():\n            return\n",
                "        elif not self._pressing():\n            return\n",
            ),
            (
                _CHAIN,
                "        alone = self._ready()\n        if alone:\n"
                "            self._changed = False\n",
                "        alone = self._ready()\n        self._changed = False\n"
                "        if alone:\n            pass\n",
            ),
            (
                _CHAIN,
                "if (alone and not self._ready()) or not self._fresh():",
                "if not self._ready() or not self._fresh():",
            ),
            (
                _CHAIN,
                "if (alone and not self._ready()) or not self._fresh():",
                "if alone and not self._ready():",
            ),
            (
                _CHAIN,
                "if self._failures or not (self._in_the_making or (self._changed and not "
                "self._helped)):",
                "if not (self._in_the_making or (self._changed and not self._helped)):",
            ),
            (
                _CHAIN,
                "if self._failures or not (self._in_the_making or (self._changed and not "
                "self._helped)):",
                "if self._failures or not (self._changed and not self._helped):",
            ),
        ),
    ),
    rule(
        "What is lost is replaced beside the room that jobs hold, before the next job begins.",
        f"{_TEST_RECOVERY}test_what_a_device_took_along_is_replaced_while_a_job_runs",
        f"{_TEST_RECOVERY}"
        "test_nothing_is_put_where_a_job_measures_and_its_room_is_planned_for_first",
        f"{_TEST_RECOVERY}test_the_next_job_waits_until_what_was_lost_serves_again",
        f"{_TEST_RECOVERY}test_a_plan_made_beside_a_job_is_one_of_the_whole_device",
        wrong=(
            (
                _PLANS,
                "            leases=self._jobs.lent(),\n",
                "",
            ),
            (
                _SITUATION,
                "return devices_beside_jobs(there, self.leases, self.running)",
                "return there",
            ),
            (
                _PLANS,
                "            absent |= not_yet_planned(records, self._controller.plan, named)\n",
                "",
            ),
            (
                _PLANS,
                "return self._lost() or bool(self._under_served())",
                "return bool(self._under_served())",
            ),
            (
                _ASSEMBLY,
                "if self.plans.chain.urgent else",
                "if False else",
            ),
            (
                _ASSEMBLY,
                "            starting=first_starts(controller.engines, watch.devices),\n",
                "",
            ),
        ),
    ),
    rule(
        "What a running job holds is not free for replicas.",
        "tests/core/replica/test_leases.py::test_what_a_job_holds_is_not_free_for_replicas",
        "tests/controller/demand/test_room.py::"
        "test_a_profile_job_leaves_what_a_plan_could_place_beside_it",
        wrong=(
            (
                _LEASES,
                "return tuple(core for core in cores if core not in lent)",
                "return tuple(cores)",
            ),
            (
                _LEASES,
                "occupied_sm_percent=device.occupied_sm_percent + lease.sm_percent,",
                "occupied_sm_percent=lease.sm_percent,",
            ),
            (
                _LEASES,
                "max_replicas=None if clients is None else max(0, clients - 1),",
                "max_replicas=clients,",
            ),
            (
                _LEASES,
                "occupied = tuple(sorted({*device.occupied_slices, *slices}))",
                "occupied = tuple(slices)",
            ),
            (
                _LEASES,
                "                device, cordoned=True, cordon_reason=",
                "                device, cordoned=False, cordon_reason=",
            ),
            (
                _LEASES,
                "        if lease.device_id == device.id:\n            device =",
                "        if lease.device_id:\n            device =",
            ),
            (_EVICTING, "        return _ALL\n", "        return room_of(lease)\n"),
            (_EVICTING, "    return room_of(lease)\n", "    return Room(0)\n"),
        ),
    ),
    rule(
        "Whatever breaks a plan is told, and tried again after a while that doubles.",
        f"{_TEST_CHAIN}test_a_planner_that_breaks_is_an_event_and_the_chain_goes_on",
        f"{_TEST_CHAIN}test_a_plan_that_breaks_while_it_is_applied_is_made_again",
        f"{_TEST_CHAIN}test_the_time_between_two_tries_doubles_up_to_a_minute",
        f"{_TEST_RECOVERY}test_a_planner_that_cannot_be_started_is_told_and_tried_again",
        wrong=(
            (
                _CHAIN,
                "        except Exception as error:\n            # A defect",
                "        except PermissionError as error:\n            # A defect",
            ),
            (
                _CHAIN,
                "        self._again()\n        self.problem = why\n",
                "        self.problem = why\n",
            ),
            (
                _CHAIN,
                "        self._again()\n        self.problem = why\n",
                "        self._again()\n",
            ),
            (
                _CHAIN,
                '            self._failures, self.problem = 0, ""\n',
                "            self._failures = 0\n",
            ),
            (
                _CHAIN,
                '            self._failures, self.problem = 0, ""\n',
                '            self.problem = ""\n',
            ),
            (_CHAIN, "doublings = min(failures - 1, 30)", "doublings = min(failures, 30)"),
            (
                _CHAIN,
                "return min(MOST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0**doublings)",
                "return FIRST_RETRY_SECONDS * 2.0**doublings",
            ),
            (
                _CHAIN,
                " or self._clock.monotonic() < self._retry_at:",
                ":",
            ),
        ),
    ),
    rule(
        "Plans that people ask for take turns, and too many are refused.",
        "tests/controller/plans/test_queue.py",
        wrong=(
            (
                _SOLVES,
                "if self._turns.locked() and self._waiting >= self._most_waiting:",
                "if self._turns.locked() and self._waiting > self._most_waiting:",
            ),
            (
                _SOLVES,
                "if self._turns.locked() and self._waiting >= self._most_waiting:",
                "if self._turns.locked():",
            ),
            (
                _SOLVES,
                "            await self._turns.acquire()\n        finally:\n"
                "            self._waiting -= 1\n",
                "            await self._turns.acquire()\n        finally:\n            pass\n",
            ),
            (
                _SOLVES,
                "            yield\n        finally:\n            self._turns.release()\n",
                "            yield\n        finally:\n            pass\n",
            ),
            (_SOLVES, "ASKED_AT_ONCE: Final = 1", "ASKED_AT_ONCE: Final = 2"),
            (
                _PLANS,
                "        async with self._asked.turn():\n"
                "            await self._devices.look()\n"
                "            situation = change",
                "        if self._asked:\n"
                "            await self._devices.look()\n"
                "            situation = change",
            ),
            (
                _PLANS,
                "        async with self._asked.turn():\n"
                "            await self._devices.look()\n"
                "            preview = await self._preview(question, on_progress)\n",
                "        await self._devices.look()\n"
                "        preview = await self._preview(question, on_progress)\n",
            ),
        ),
    ),
    rule(
        "Jobs that have not ended are never dropped, and an equal one is found.",
        f"{_TEST_STORE}test_only_jobs_that_have_ended_are_dropped_the_one_that_ended_first_first",
        f"{_TEST_JOBS}test_a_job_that_waits_is_known_however_many_came_after_it",
        f"{_TEST_JOBS}test_all_waiting_jobs_are_taken_up_after_a_restart",
        f"{_TEST_JOBS}test_the_same_job_is_not_queued_twice",
        wrong=(
            (
                _STORE,
                "select(JobRow.sequence).where(ended).order_by(*last)",
                "select(JobRow.sequence).order_by(*last)",
            ),
            (
                _STORE,
                "last = (col(JobRow.updated_at).desc(), col(JobRow.sequence).desc())",
                "last = (col(JobRow.sequence).desc(),)",
            ),
            (
                _STORE,
                "last = (col(JobRow.updated_at).desc(), col(JobRow.sequence).desc())",
                "last = (col(JobRow.updated_at), col(JobRow.sequence))",
            ),
            (
                _JOB_ROOM,
                "        return one.params == other.params\n",
                "        return True\n",
            ),
            (
                _JOBS,
                "        return tuple(self._latest(job) for job in (*newest, *older))\n",
                "        return tuple(self._latest(job) for job in newest)\n",
            ),
        ),
    ),
    rule(
        "The engine that a profile job starts counts among those that start on its device.",
        "tests/core/replica/test_reconcile.py",
        "tests/core/replica/test_convergence.py::test_an_engine_that_a_profile_job_starts_is_waited_for",
        f"{_TEST_JOBS}test_a_job_tells_where_it_starts_an_engine_only_while_it_does",
        wrong=(
            (
                _RECONCILE,
                "policy.max_starting - seen.measuring.count(device_id)",
                "policy.max_starting",
            ),
            (
                _RECONCILE,
                "policy.max_starting - seen.measuring.count(device_id)",
                "policy.max_starting - len(seen.measuring)",
            ),
            (
                _RECONCILE,
                "policy.max_starting - seen.measuring.count(device_id)",
                "policy.max_starting - (device_id in seen.measuring)",
            ),
            (
                _CONVERGENCE,
                "if len(busy) + measuring >= here.policy.max_starting:",
                "if len(busy) >= here.policy.max_starting:",
            ),
            (
                _JOBS,
                '            if lent.job.progress.phase == "starting"\n',
                "",
            ),
        ),
    ),
    rule(
        "Measuring waits for engines that start, and not for ever.",
        "tests/controller/runtime/test_engine_matching.py",
        f"{_TEST_RECOVERY}test_the_next_job_waits_until_what_was_lost_serves_again",
        wrong=(
            (
                _HOLDINGS,
                "if engine.state in _COMING and engine.failed_starts < HOPELESS_FAILURES",
                "if engine.state in _COMING",
            ),
            (
                _HOLDINGS,
                "if engine.state in _COMING and engine.failed_starts < HOPELESS_FAILURES",
                "if engine.failed_starts < HOPELESS_FAILURES",
            ),
            (
                _HOLDINGS,
                "_COMING: Final = frozenset({ReplicaState.STARTING, ReplicaState.WAKING})",
                "_COMING: Final = frozenset({ReplicaState.STARTING})",
            ),
            (
                _JOBS,
                "            self._say_waiting(dict.fromkeys(self._queued, paused))\n"
                "            return\n",
                "            self._say_waiting(dict.fromkeys(self._queued, paused))\n",
            ),
        ),
    ),
    rule(
        "Only profiles are deleted that nothing uses and that no plan would use.",
        "tests/controller/profiles/test_pruning.py",
        _TEST_STORE + "test_removed_profiles_are_gone_and_the_others_stay",
        wrong=(
            (_PRUNING, "    used = _used(placements)\n", "    used = set[str]()\n"),
            (
                _PRUNING,
                'return {*ids, *(profile_id.partition("@")[0] for profile_id in ids)}',
                "return {*ids}",
            ),
            (
                _PRUNING,
                "if profile.id in used or not forms or profile.kind is ProfileKind.ESTIMATED:",
                "if profile.id in used or profile.kind is ProfileKind.ESTIMATED:",
            ),
            (
                _PRUNING,
                "if profile.id in used or not forms or profile.kind is ProfileKind.ESTIMATED:",
                "if profile.id in used or not forms:",
            ),
            (
                _PRUNING,
                "        used |= {profile.id for spec in forms for profile in "
                "best_profiles(spec, own)}\n",
                "        used |= {profile.id for profile in best_profiles(forms[0], own)}\n",
            ),
            (_SHELF, "        if delete and found:\n", "        if found:\n"),
            (_ASSEMBLY, "*(() if applied is None else (applied,))", ""),
            (_ASSEMBLY, "*self.plans.remembered(), ", "*(), "),
            (_ASSEMBLY, "        yield from self.releases.earlier_places()\n", ""),
        ),
    ),
    rule(
        "A replica without an engine is cut off from a device that is gone, failed or silent.",
        "tests/core/replica/test_lost.py",
        wrong=(
            (
                _LOST,
                "if d.health not in (DeviceHealth.FAILED, DeviceHealth.SILENT)}",
                "if d.health is not DeviceHealth.SILENT}",
            ),
            (
                _LOST,
                "if d.health not in (DeviceHealth.FAILED, DeviceHealth.SILENT)}",
                "if d.health is not DeviceHealth.FAILED}",
            ),
            (
                _LOST,
                "if p.device_id not in answers and",
                "if p.device_id in {d.id for d in devices} - answers and",
            ),
            (_LOST, "placement.replica_id not in live and", "True and"),
            (_LOST, " and placement.model not in asleep\n", "\n"),
            (_LOST, "    if not devices:\n        return frozenset()\n", ""),
        ),
    ),
    rule(
        "What ends on a device that was lost before is planned again, while jobs run, too.",
        f"{_TEST_RECOVERY}test_what_ends_on_a_device_that_was_lost_before_is_planned_again",
        f"{_TEST_RECOVERY}test_it_is_planned_again_while_a_job_runs",
        wrong=(
            (
                _ASSEMBLY,
                "        if self._known_cut_off - before:\n            self.plan_again()\n",
                "",
            ),
            (
                _ASSEMBLY,
                "        return cut_off(placements, self.devices.devices, live, asleep)\n",
                "        silent = [d for d in self.devices.devices if d.cordoned]\n"
                "        return cut_off(placements, silent, live, asleep)\n",
            ),
            (
                _PLANS,
                "return self._lost() or bool(self._under_served())",
                "return stranded(self._controller.desired, self._devices.devices)",
            ),
        ),
    ),
    rule(
        "A replica that waits for the room of engines that stay has failed, and no other.",
        "tests/core/replica/test_convergence.py",
        wrong=(
            (_CONVERGENCE, "    if not at.for_room:\n        return at\n", ""),
            (
                _CONVERGENCE,
                'return _At(waiting, "waits for room on its device")',
                'return _At(waiting, "waits for room on its device", for_room=True)',
            ),
            (_CONVERGENCE, '{old}", for_room=True)', '{old}")'),
            (
                _CONVERGENCE,
                "r.placement.model in failed and r.state is ReplicaState.SERVING for r in olds",
                "r.placement.model in failed for r in olds",
            ),
        ),
    ),
    rule(
        "What was lost is replaced beside what runs.",
        "tests/controller/test_recovery.py::"
        "test_what_was_lost_is_replaced_beside_what_runs_though_a_move_saves_a_device",
        wrong=(
            (_PLANS, "if self._lost() else None", "if not self._lost() else None"),
            (
                _PLANS,
                "        return stranded(desired, self._devices.devices) or any(cut_off)\n",
                "        return stranded(desired, self._devices.devices)\n",
            ),
            (
                _PLANS,
                "        return stranded(desired, self._devices.devices) or any(cut_off)\n",
                "        return any(cut_off)\n",
            ),
            (_PLANS, "PlanQuestion(move_price=MAX_MOVE_PRICE)", "PlanQuestion(move_price=0.0)"),
        ),
    ),
)
