"""Which profile job begins, where, beside what, and how it goes on."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_JOBS: Final = "partitiond/controller/profiles/jobs.py"
_JOB_ROOM: Final = "partitiond/controller/profiles/job_room.py"
_LEASES: Final = "partitiond/core/replica/leases.py"
_BESIDE: Final = "partitiond/controller/profiles/capacity_beside_jobs.py"
_LAUNCHES: Final = "partitiond/controller/runtime/launches.py"
_LOOP: Final = "partitiond/controller/runtime/loop.py"
_PLANNING: Final = "partitiond/controller/plans/planning.py"
_SITUATION: Final = "partitiond/controller/plans/situation.py"
_SLOTS: Final = "partitiond/core/replica/job_slots.py"
_TEST_RECOVERY: Final = "tests/controller/test_recovery.py::"
_TEST_JOBS: Final = "tests/controller/profiles/test_jobs.py::"
_TEST_MANY: Final = "tests/controller/test_many_jobs.py::"

JOBS: Final[tuple[Rule, ...]] = (
    rule(
        "A job that another release queued in its own way waits, and holds up no other.",
        "tests/controller/profiles/test_job_room.py",
        wrong=(
            (
                _JOB_ROOM,
                "        if problem:\n            why",
                "        if False:\n            why",
            ),
            (_JOB_ROOM, '    if job.kind != "profile":\n', "    if not job.kind:\n"),
            (
                _JOB_ROOM,
                "    except (KeyError, ValueError) as error:\n",
                "    except KeyError as error:\n",
            ),
            (
                _JOB_ROOM,
                'if not (mine.pop("device_id", "") and its.pop("device_id", "")):',
                'if mine.pop("device_id", "") == its.pop("device_id", "") == "":',
            ),
        ),
    ),
    rule(
        "A waiting job is in the queue and in the store, or in neither, also where writing fails.",
        f"{_TEST_JOBS}test_a_waiting_job_that_cannot_be_written_as_ended_goes_on_waiting",
        f"{_TEST_JOBS}test_a_cancel_that_the_store_refuses_changes_nothing",
        f"{_TEST_JOBS}test_a_job_that_cannot_be_stored_is_not_queued",
        f"{_TEST_JOBS}test_what_is_being_cancelled_does_not_stand_for_who_asks_again",
        f"{_TEST_JOBS}test_the_same_job_is_not_queued_twice",
        wrong=(
            (
                _JOBS,
                "self._finish(self._queued[job_id], JobState.CANCELLED, error=error)\n"
                "        del self._queued[job_id]\n",
                "self._finish(self._queued.pop(job_id), JobState.CANCELLED)\n",
            ),
            (
                _JOBS,
                "        del self._queued[job_id]\n        self._ended(ended)\n",
                "        self._ended(ended)\n",
            ),
            (
                _JOBS,
                "        self._store.put_job(job)  # first",
                "        self._queued[job.id] = job\n        self._store.put_job(job)  # first",
            ),
            (
                _JOBS,
                "if same_request(same, job) and not self._is_being_cancelled(same.id):",
                "if same_request(same, job):",
            ),
            (
                _JOBS,
                "if same_request(same, job) and not self._is_being_cancelled(same.id):",
                "if same_request(same, job) and same.id not in self._running:",
            ),
        ),
    ),
    rule(
        "Jobs run side by side on different devices, so many on each and on a host.",
        "tests/core/replica/test_job_slots.py",
        wrong=(
            (
                _SLOTS,
                "        return self._jobs[device_id] >= self._slots.per_device\n",
                "        return len(self._running) >= self._slots.per_device\n",
            ),
            (
                _SLOTS,
                "        return self._jobs[device_id] >= self._slots.per_device\n",
                "        return self._jobs[device_id] > self._slots.per_device\n",
            ),
            (
                _SLOTS,
                "if jobs[host] >= slots.per_host",
                "if jobs[host] > slots.per_host",
            ),
            (
                _SLOTS,
                "if other.work == job.work), None)",
                "if other.id == job.id), None)",
            ),
            (
                _SLOTS,
                "key=lambda device_id: (device_id != job.first, self._jobs[device_id])",
                "key=lambda device_id: device_id != job.first",
            ),
            (
                _SLOTS,
                "key=lambda device_id: (device_id != job.first, self._jobs[device_id])",
                "key=lambda device_id: self._jobs[device_id]",
            ),
            (
                _SLOTS,
                "        if key not in self._known:\n",
                "        if key:\n",
            ),
            (
                _SLOTS,
                "        waits[job.id] = found.reason\n",
                "        waits[job.id] = found.reason\n        break\n",
            ),
        ),
    ),
    rule(
        "A job is passed over a few times at most, and bars only what jobs keep it from.",
        "tests/core/replica/test_job_slots.py",
        f"{_TEST_JOBS}test_how_often_a_job_was_passed_over_is_counted_until_it_begins",
        wrong=(
            (_SLOTS, "if job.passed >= MOST_PASSED:", "if job.passed > MOST_PASSED:"),
            (_SLOTS, "            if job.passed >= MOST_PASSED:\n", "            if False:\n"),
            (
                _SLOTS,
                "            if self._room.fits_without_jobs(job.needs, device_id)\n",
                "",
            ),
            (
                _SLOTS,
                "return frozenset(places | set(job.also)) if places else frozenset()",
                "return frozenset(places)",
            ),
            (
                _SLOTS,
                "for name, could in passed if found.device_id in could)",
                "for name, could in passed)",
            ),
            (_JOBS, "                self._passed[name] += 1\n", "                pass\n"),
            (
                _JOBS,
                "{name: self._passed.get(name, 0) for name in self._queued}",
                "dict.fromkeys(self._queued, 0)",
            ),
        ),
    ),
    rule(
        "A job takes any device of its hardware that it may, and cores and memory of its own.",
        "tests/controller/profiles/test_job_room.py",
        "tests/core/replica/test_leases.py",
        wrong=(
            (_JOB_ROOM, "return named if ONLY_THERE in params else", "return"),
            (_JOB_ROOM, "            if not device.cordoned:\n", "            if True:\n"),
            (
                _JOB_ROOM,
                "        return job.hardware or self._hardware.get(",
                "        return self._hardware.get(",
            ),
            (
                _JOB_ROOM,
                "if pair[0] not in _HOW)",
                'if pair[0] != "device_id")',
            ),
            (
                _JOB_ROOM,
                "        return job.kind, job.subject, where, what\n",
                "        return job.kind, job.subject, what\n",
            ),
            (
                _JOB_ROOM,
                "    return alike and mine == its and ONLY_THERE not in mine\n",
                "    return alike and mine == its\n",
            ),
            (
                _JOB_ROOM,
                "            return self._host_memory(device.host, running) or lease\n",
                "            return lease\n",
            ),
            (
                _JOB_ROOM,
                "        slots = max(1, sharing) * self._host.slots.per_device\n",
                "        slots = max(1, sharing)\n",
            ),
            (_LEASES, "    busy = {*busy_cores, *lent_cores}\n", "    busy = {*busy_cores}\n"),
            (
                _LEASES,
                "    if jobs and len(idle) < LEAST_HOST_CORES:\n",
                "    if len(idle) < LEAST_HOST_CORES:\n",
            ),
        ),
    ),
    rule(
        "A plan beside a job takes no host cores or host memory that its engine needs.",
        "tests/controller/profiles/test_capacity_beside_jobs.py",
        "tests/core/replica/test_leases.py",
        wrong=(
            (_BESIDE, "lease.cores if on_cpu else lease.cores[:LEAST_HOST_CORES]", "lease.cores"),
            (_BESIDE, "            lent = more\n", "            pass\n"),
            (
                _BESIDE,
                "        if more.isdisjoint(pinned) and _leaves_enough(host, more, needs):\n",
                "        if more.isdisjoint(pinned):\n",
            ),
            (
                _BESIDE,
                "        if more.isdisjoint(pinned) and _leaves_enough(host, more, needs):\n",
                "        if _leaves_enough(host, more, needs):\n",
            ),
            (_BESIDE, "        if lease.shares_cores:\n            continue\n", ""),
            (_BESIDE, "len(cores) >= max(1, needs[name])", "len(cores) >= needs[name]"),
            (_BESIDE, "        together >= sum(needs[name] for name in left)\n", "        True\n"),
            (_BESIDE, "max(0, total - used))", "total)"),
            (_BESIDE, "max(0, total - used))", "total - used)"),
            (
                _BESIDE,
                "on_gpus = sum(not on_cpu[lease.partition.device_id] for lease in jobs)",
                "on_gpus = sum(1 for lease in jobs)",
            ),
            (
                _BESIDE,
                "usable = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)",
                "usable = device.free_bytes",
            ),
            (
                _SITUATION,
                "return devices_beside_jobs(there, self.leases, self.running)",
                "return devices_beside_jobs(there, (), self.running)",
            ),
            (
                _PLANNING,
                "told, situation.devices, situation.leases, situation.running",
                "told, situation.devices, (), situation.running",
            ),
            (_LEASES, "cordoned=True, cordon_reason=why", "cordoned=False"),
            (
                _LEASES,
                "    return dataclasses.replace(lease, shares_cores=True)\n",
                "    return lease\n",
            ),
        ),
    ),
    rule(
        "An engine that starts beside a job has other host cores while enough are free.",
        "tests/controller/runtime/test_launches.py",
        f"{_TEST_RECOVERY}test_an_engine_that_starts_beside_a_job_has_other_host_cores",
        wrong=(
            (
                _LAUNCHES,
                "uses = Counter([*lent, *(core",
                "uses = Counter([*(core",
            ),
            (
                _LAUNCHES,
                "cores=cores_for(placement, device, others, lent),",
                "cores=cores_for(placement, device, others),",
            ),
            (
                _LOOP,
                "lent=lent_there(device, devices, self._callbacks.lent()),",
                "lent=(),",
            ),
        ),
    ),
    rule(
        "Jobs that ran side by side go on side by side, each where it was.",
        f"{_TEST_MANY}test_a_daemon_that_begins_again_goes_on_with_all_jobs_where_they_were",
        f"{_TEST_JOBS}test_jobs_that_were_interrupted_together_go_on_before_all_that_wait",
        f"{_TEST_JOBS}test_a_job_and_its_events_say_on_which_device_it_runs",
        wrong=(
            (
                _JOBS,
                "key=lambda job: not job.device_id)",
                "key=lambda job: job.id)",
            ),
            (
                _JOBS,
                "            device_id=lease.partition.device_id,\n",
                "",
            ),
            (
                _JOBS,
                "                device_id=old.device_id,\n",
                "",
            ),
            (
                _JOBS,
                '        self._journal.note("job-queued", job.id, why)\n',
                '        self._journal.note("job-queued", job.id, why)\n        self.poke()\n',
            ),
            (
                _JOB_ROOM,
                "                first=job.device_id,\n",
                "",
            ),
        ),
    ),
)
