"""What belongs to one host, and what to all of them."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_HOSTS: Final = "partitiond/core/hardware/hosts.py"
_AGENTS: Final = "partitiond/hosts/"
_DEVICES: Final = f"{_AGENTS}devices.py"
_ENGINES: Final = f"{_AGENTS}engines.py"
_STATE: Final = "partitiond/core/hardware/host_state.py"
_LOOP: Final = "partitiond/controller/runtime/loop.py"
_TEST_STATE: Final = "tests/core/hardware/test_host_state.py"
_TEST_DEVICES: Final = "tests/hosts/test_devices.py::"
_HISTORIES: Final = "tests/property/test_host_histories.py"
_PROXIES: Final = f"{_AGENTS}proxies.py"
_CALLS: Final = f"{_AGENTS}calls/"
_FAR: Final = f"{_CALLS}far.py"
_NEAR: Final = f"{_CALLS}near.py"
_MESSAGES: Final = f"{_CALLS}messages.py"
_FENCING: Final = f"{_CALLS}fencing.py"
_SESSION: Final = f"{_CALLS}session.py"
_OBEYED: Final = f"{_CALLS}obeyed.py"
_IDENTITY: Final = f"{_CALLS}identity.py"
_HEAD: Final = f"{_AGENTS}head.py"
_MEMBERSHIP: Final = f"{_AGENTS}membership.py"
_SIMULATED: Final = "partitiond/simulated/fleet/"
_OUTAGES: Final = f"{_SIMULATED}outages.py"
_FLEET_HOSTS: Final = f"{_SIMULATED}hosts.py"
_USE_CASES: Final = "partitiond/controller/plans/use_cases.py"
_MATCHING: Final = "partitiond/controller/runtime/engine_matching.py"
_NOT_WAITED: Final = "            except ZeroDivisionError:\n                await"
_UNCOUNTED: Final = "                continue\n            for"
_NOT_CAUGHT: Final = "        except ZeroDivisionError as error:  # it"
_JOB_ROOM: Final = "partitiond/controller/profiles/job_room.py"
_LAUNCHES: Final = "partitiond/controller/runtime/launches.py"
_PLANNING: Final = "partitiond/controller/plans/planning.py"
_ROUTES: Final = "partitiond/controller/runtime/routes.py"
_ROUTING: Final = "partitiond/core/dispatch/routing.py"
_BRIDGE: Final = "partitiond/cluster/bridge.py"
_DIRECTORY: Final = "partitiond/cluster/directory.py"
_DOCTOR: Final = "partitiond/cli/doctor/cluster.py"
_ASKED: Final = "partitiond/cluster/ask_directory.py"
_UNITS: Final = "partitiond/cli/setup/cluster_units.py"
_KNOWN_HEADS: Final = "partitiond/proxy/edge/known_heads.py"
_PARENT: Final = "partitiond/proxy/workers/parent.py"
_STALE: Final = "partitiond/core/keys/stale.py"
_FLEET: Final = "partitiond/core/demand/fleet.py"
_USAGE: Final = "partitiond/core/keys/usage.py"
_BOOKS: Final = "partitiond/controller/keys/usage.py"
_JOBS: Final = "partitiond/controller/profiles/jobs.py"
_JOB: Final = "partitiond/core/profile/jobs.py"
_ASSEMBLY: Final = "partitiond/controller/assembly.py"
_SLOTS: Final = "partitiond/core/replica/job_slots.py"
_STALENESS: Final = "partitiond/controller/profiles/staleness.py"
_TEST_ROOM: Final = "tests/controller/profiles/test_job_room.py::"
_TEST_SLOTS: Final = "tests/core/replica/test_job_slots.py::"
_TEST_LAUNCHES: Final = "tests/controller/runtime/test_launches.py::"
_TEST_PLANNING: Final = "tests/controller/plans/test_planning.py::"
_TEST_STALENESS: Final = "tests/controller/profiles/test_staleness.py::"

HOSTS: Final[tuple[Rule, ...]] = (
    rule(
        "Cores, memory and slots are counted by host; a device that is gone was perhaps here.",
        f"{_TEST_ROOM}test_cores_memory_and_slots_of_one_host_are_not_those_of_another",
        f"{_TEST_ROOM}test_each_core_is_busy_on_the_host_of_its_device_alone",
        f"{_TEST_SLOTS}test_a_host_that_takes_no_further_job_holds_up_no_other_host",
        f"{_TEST_LAUNCHES}test_cores_that_another_host_uses_are_free_here",
        f"{_TEST_PLANNING}test_what_our_own_engines_use_is_free_to_plan_with",
        f"{_TEST_PLANNING}test_what_runs_on_a_device_that_is_not_known_any_more_may_run_on_any_host",
        wrong=(
            (_HOSTS, "[*there[host], *there[None]]", "[*there[host]]"),
            (
                _HOSTS,
                "[*there[host], *there[None]]",
                "[one for own in there.values() for one in own]",
            ),
            (
                _JOB_ROOM,
                "self._host.busy_cores.get(device.host, ())",
                "{c for cores in self._host.busy_cores.values() for c in cores}",
            ),
            (
                _JOB_ROOM,
                "for job, lent in running if self._may_be_on(device.host, lent)]",
                "for job, lent in running]",
            ),
            (_SLOTS, "host_of.get(one.device_id, h) == h", "host_of.get(one.device_id) == h"),
            (
                _SLOTS,
                'and self._host_of.get(device_id, "") not in self._busy_hosts',
                "and True",
            ),
            (
                _SLOTS,
                'and self._host_of.get(device_id, "") not in self._busy_hosts',
                "and not self._busy_hosts",
            ),
            (_LAUNCHES, "    return tuple(there[device.host])\n", "    return tuple(launches)\n"),
            (_PLANNING, "+ used_on[device.host])", "+ sum(used_on.values()))"),
            (_PLANNING, "+ used_on[device.host])", ")"),
        ),
    ),
    rule(
        "Hosts measure side by side: a job waits for jobs and starts of the hosts that it may use.",
        "tests/core/replica/test_job_slots.py",
        f"{_TEST_ROOM}"
        "test_no_job_begins_beside_engines_that_start_on_its_host_and_other_hosts_measure",
        "tests/controller/runtime/test_engine_matching.py",
        "tests/controller/test_many_jobs.py::"
        "test_hosts_measure_side_by_side_and_only_where_an_engine_starts_jobs_wait",
        "tests/cli/test_tables.py::test_a_job_says_on_which_device_it_runs_and_one_that_waits_does_not",
        wrong=(
            (_SLOTS, "in {*busy, None})", "in busy)"),
            (_SLOTS, "or (busy and self._host_of", "or (self._host_of"),
            (_SLOTS, "if more > 1 else names", "if more > 0 else names"),
            (_SLOTS, 'named = [*names[:NAMED_MOST], f"{more} others"]', "named = names[:]"),
            (
                _JOB_ROOM,
                "self._host.starting.get(device.host) if",
                '("a",) if',
            ),
            (_MATCHING, "for host, own in there.items()}", "for host, own in []}"),
            (_JOBS, "            host=self._host_of(lease.partition.device_id),\n", ""),
            (_ASSEMBLY, "            host_of=self._host_of,\n        )", "        )"),
            (_JOB, 'return f"{device} of {job.host}" if job.host else device', "return device"),
        ),
    ),
    rule(
        "The proxy of a host is told of the replicas that run there, and of all models and keys.",
        "tests/controller/runtime/test_routes.py::"
        "test_each_host_is_told_of_the_replicas_that_run_there",
        wrong=(
            (_ROUTING, "tuple(self._on.get(host, ()))", "()"),
            (_ROUTING, "tuple(self._on.get(host, ()))", "self._table.replicas"),
            (_ROUTING, "for replica in here if not replica.draining}", "for replica in here}"),
            (_ROUTING, "model if model.name in serving else self._away", "self._away"),
            (_ROUTES, "        host=engine.host,\n", ""),
        ),
    ),
    rule(
        "An endpoint that hears nothing for too long refuses all keys, over a restart, too.",
        "tests/core/keys/test_stale.py",
        "tests/proxy/test_stale_keys.py",
        wrong=(
            (_STALE, "0.0 <= now - heard <", "0.0 <= now - heard <="),
            (_STALE, "heard is None or", "heard is not None and"),
            (_STALE, "word.boot_id == boot_id else", "True else"),
            (_KNOWN_HEADS, "is not None and not ring.is_stale()", "is not None"),
            (_PARENT, "        self._word.load()\n", "        self._word.hear(1.0)\n"),
        ),
    ),
    rule(
        "A host that does not answer is no engine that does not answer, and nothing starts twice.",
        "tests/hosts/test_engines.py",
        "tests/controller/runtime/test_engine_matching.py",
        wrong=(
            (_ENGINES, "            except HostSilentError:\n                await", _NOT_WAITED),
            (_ENGINES, "            self._unsearched.add(agent.name)  #", "            pass  #"),
            (_ENGINES, "dataclasses.replace(handle.launch, host=host)", "handle.launch"),
            (
                _DEVICES,
                "        if not found.answers or self._engines.searched(agent.name):\n",
                "        if True:\n",
            ),
            (_DEVICES, "        except PartitiondError as error:  # it", _NOT_CAUGHT),
            (_MATCHING, "        and handle.launch.replica_id not in starting\n", ""),
            (_MATCHING, "(handle.host, handle.generation) not in known", "True"),
        ),
    ),
    rule(
        "A host is silent and lost by the time that it was asked in vain; one that comes and goes "
        "is lost.",
        _TEST_STATE,
        wrong=(
            (_STATE, "    if falls <= 1:\n", "    if True:\n"),
            (
                _STATE,
                "        falls = 1 if trusted_for >= limits.lost_seconds else falls + 1\n",
                "        falls += 1\n",
            ),
            (
                _STATE,
                "    away = silent if was_trusted else now - words.trusted_at\n",
                "    away = silent\n",
            ),
            (
                _STATE,
                "        return max(self.heard_at, self.missed_at - UNASKED_SECONDS)\n",
                "        return self.heard_at\n",
            ),
        ),
    ),
    rule(
        "The devices of a host are as last seen while it is late, silent, lost and then back.",
        f"{_TEST_DEVICES}test_a_host_is_late_silent_lost_and_back",
        f"{_TEST_DEVICES}test_a_head_that_was_restarted_loses_a_host_that_it_never_heard_of",
        f"{_TEST_DEVICES}test_the_heads_own_host_is_never_late",
        f"{_TEST_DEVICES}test_one_host_that_hangs_is_late_and_holds_up_no_other",
        wrong=(
            (_DEVICES, "        if standing.gone:\n", "        if False:\n"),
            (_DEVICES, "        if agent.name in self._fallen:\n", "        if False:\n"),
            (
                _DEVICES,
                "seen.devices if seen is not None else self._remembered.get(host, ())",
                "seen.devices if seen is not None else ()",
            ),
            (
                _DEVICES,
                "        if agent is self._agents.own:\n            return overtaken_standing(",
                "        if self._overtaken:\n            return overtaken_standing(",
            ),
            (_ENGINES, " or host in self._gone\n", "\n"),
        ),
    ),
    rule(
        "A device is of one host; the id of a lost host's may come again.",
        _TEST_DEVICES.removesuffix("::"),
        wrong=(
            (_DEVICES, "                self._refuse_twins(name, seen.devices, now)\n", ""),
            (
                _DEVICES,
                "            if other == host or words is None:",
                "            if words is None:",
            ),
            (
                _DEVICES,
                "            if not is_own and host_standing(",
                "            if is_own and host_standing(",
            ),
            (_DEVICES, "                del self._host_of[device.id]\n", "                pass\n"),
        ),
    ),
    rule(
        "In no history of a fleet is an engine an orphan, is one started twice, or does a lost "
        "host's replica lack a place that there is.",
        _HISTORIES,
        wrong=(
            (
                _STATE,
                "    answers = words.missed_at is None or silent < limits.silent_seconds\n",
                "    answers = True\n",
            ),
            (_STATE, "    gone = away >= limits.lost_seconds\n", "    gone = False\n"),
            (
                _STATE,
                "    return since is not None and now >= since",
                "    return since is not None and 0.0 >= now",
            ),
        ),
    ),
    rule(
        "A proxy on a silent host is not asked, and is given the newest table before it is again.",
        "tests/hosts/test_proxies.py",
        wrong=(
            (_PROXIES, "if told.get(route.host) is None\n", "if False\n"),
            (_PROXIES, "                if name in lost:\n", "                if True:\n"),
            (_PROXIES, "            if self._lacks(host):\n                return None\n", ""),
            (_PROXIES, "part = parts.of(host.agent.name)", "part = table"),
            (_PROXIES, "version=newer + 1", "version=newer"),
            (
                _PROXIES,
                'host.table, host.part, host.problem = table, (part, now), ""',
                'host.part, host.problem = (part, now), ""',
            ),
            (_PROXIES, "host.part is None or host.problem or", "host.part is None or"),
        ),
    ),
    rule(
        "A head that starts again takes no host its table, and learns what is in flight there.",
        "tests/hosts/test_proxies.py",
        wrong=(
            (_PROXIES, "return self._table is not EMPTY_ROUTING_TABLE", "return True"),
            (_PROXIES, "        while self._begun:\n", "        while True:\n"),
            (
                _PROXIES,
                "            return await self._asked_in_time(host.agent, ask)\n",
                "            return None\n",
            ),
            (
                _PROXIES,
                "                if parts is not self._parts:\n                    continue",
                "                if False:\n                    continue",
            ),
        ),
    ),
    rule(
        "Endpoints are told of those of other hosts, by what each said last, until it is lost.",
        "tests/hosts/test_proxies.py::"
        "test_each_proxy_is_told_of_the_others_until_their_hosts_are_lost",
        "tests/controller/runtime/test_routes.py::"
        "test_each_host_that_serves_others_is_told_of_all_such",
        "tests/hosts/test_membership.py::"
        "test_a_restarted_head_tells_at_once_where_the_proxies_of_its_hosts_are",
        wrong=(
            (_PROXIES, "            if address and name not in lost\n", "            if address\n"),
            (_PROXIES, "if self._begun and self._peers() != self._parts.peers:", "if False:"),
            (_PROXIES, "self._peers() != self._parts.peers:", "self._peers():"),
            (_PROXIES, "            if parts is self._parts:\n", "            if True:\n"),
            (_ROUTING, "self.peers if host in self._serve_others else ()", "self.peers"),
            (_ROUTING, "replicas=here, host=host, peers=peers", "replicas=here, peers=peers"),
            (
                _MEMBERSHIP,
                "AgentFacts(name, peers_address=known.peers_address)",
                "AgentFacts(name)",
            ),
            (_MEMBERSHIP, "                    peers_address=facts.peers_address,\n", ""),
        ),
    ),
    rule(
        "A device that was moved to another host is that host's alone.",
        f"{_TEST_DEVICES}test_a_device_of_a_lost_host_may_be_in_another_one",
        wrong=(
            (
                _DEVICES,
                "(d for d in known if self._host_of",
                "(d for d in known if True or self._host_of",
            ),
            (
                _DEVICES,
                ".get(d.id, agent.name) == agent.name)",
                ".get(d.id, agent.name) != agent.name)",
            ),
            (
                _DEVICES,
                "standing.reason) for device in left)",
                "standing.reason) for device in known)",
            ),
        ),
    ),
    rule(
        "Who looks at the service's state folder knows its place among hosts; nobody else does.",
        "tests/cli/setup/test_cluster_units.py"
        "::test_the_place_of_the_service_is_known_to_who_looks_at_its_state_folder",
        wrong=(
            (_UNITS, " or settings.state_dir != Path(STATE):", ":"),
            (_UNITS, '"enabled": not place.head,', '"enabled": True,'),
            (_UNITS, '"address": place.address,', '"address": "",'),
            (_UNITS, '            "manage_ray": False,\n', ""),
            (
                _UNITS,
                '        own = own.model_copy(update={"name": place.name})\n',
                "        pass\n",
            ),
        ),
    ),
    rule(
        "What each proxy of a fleet counted is booked once, and rates are of growth alone.",
        "tests/core/demand/test_fleet.py",
        "tests/controller/keys/test_fleet_usage.py",
        wrong=(
            (_FLEET, "count if last is None else old or ModelCount()", "old or ModelCount()"),
            (_FLEET, "was = one if last is None else fresh", "was = fresh"),
            (_FLEET, "        return HostCounts(None, quiet, still)", "        return before"),
            (_USAGE, "    names += [host] if host in positions else []\n", ""),
            (_USAGE, "if position.epoch == epoch]", "if n == host]"),
            (_BOOKS, "position = self._add(position, left)", "pass"),
        ),
    ),
    rule(
        "An agent does the same through bytes as in this process.",
        "tests/contract/test_host_agent.py",
        wrong=(
            (_MESSAGES, "ErrorRecord(type(error).__name__, ", 'ErrorRecord("PartitiondError", '),
            (_NEAR, '_send("cancel", number=number', '_send("hello", number=number'),
            (
                _SESSION,
                "        await asyncio.wait({call.task}, timeout=seconds)\n        return",
                "        return",
            ),
            (_MESSAGES, "message.oldest > MESSAGE_VERSION or", "False or"),
            (_FAR, "if message.host and message.host != self._agent.name:", "if False:"),
            (_FAR, "        if how is None:\n", "        if False:\n"),
        ),
    ),
    rule(
        "A host obeys the highest epoch, of a head its latest start, and of equals the first.",
        "tests/hosts/calls/test_fencing.py",
        wrong=(
            (_FENCING, "asks.epoch > obeyed.epoch", "asks.epoch >= obeyed.epoch"),
            (_FENCING, "asks.epoch < obeyed.epoch or", "False or"),
            (
                _FENCING,
                "asks.epoch < obeyed.epoch or asks.id != obeyed.id",
                "asks.epoch < obeyed.epoch",
            ),
            (_FENCING, "if asks.session == obeyed.session else Obedience.REFUSE", ""),
            (_FENCING, "asks.start > obeyed.start else", "asks.start >= 0 else"),
            (
                _FAR,
                "            self._obeyed.save(asks, or_later=may_be_kept_later(obeyed, asks))\n",
                "            self._obeyed._known = asks\n",
            ),
            (_FAR, "        if not await self._former_ended():\n", "        if False:\n"),
            (
                _FAR,
                "        if self._calls is not calls:  # overtaken",
                "        if False:  # overtaken",
            ),
            (
                _OBEYED,
                "            except FileNotFoundError:\n",
                "            except (OSError, InputError):\n",
            ),
            (_HEAD, "1 + max(record.epoch, record.seen_epoch)", "1 + record.epoch"),
            (_HEAD, "starts=record.starts + 1", "starts=record.starts"),
        ),
    ),
    rule(
        "A head that was overtaken begins nothing, on its own host either, and serves on.",
        "tests/hosts/test_head.py",
        "tests/hosts/test_devices.py",
        "tests/hosts/test_membership.py",
        "tests/controller/test_overtaken.py",
        wrong=(
            (_HEAD, "if other > epoch}", "if other >= epoch}"),
            (_STATE, "answers=False, overtaken=True)", "overtaken=True)"),
            (
                _NEAR,
                "is_ours = bool(self._host_id) and answer.host_id == self._host_id",
                "is_ours = True",
            ),
            (_MEMBERSHIP, "agent.overtaken_by > before.overtaken_by", "False"),
            (
                _USE_CASES,
                "        if self._devices.overtaken:\n            return False\n",
                "",
            ),
            (_USE_CASES, "            self._refuse_if_overtaken()\n", ""),
        ),
    ),
    rule(
        "On a full disk a host obeys a later start of its head, and none that takes over.",
        "tests/hosts/calls/test_fencing.py",
        wrong=(
            (
                _FENCING,
                "return obeyed is not None and (asks.id",
                "return obeyed is None or (asks.id",
            ),
            (
                _FENCING,
                "(asks.id, asks.epoch) == (obeyed.id, obeyed.epoch)",
                "asks.id == obeyed.id",
            ),
            (_OBEYED, "                if not or_later:\n", "                if True:\n"),
            (_OBEYED, "            self.save(self._known, or_later=True)\n", "            pass\n"),
            (_OBEYED, "time.monotonic() >= self._again_at", "True"),
            (_FAR, "            self._obeyed.save_late()\n", "            pass\n"),
        ),
    ),
    rule(
        "A machine that answers under another one's name does nothing for it and is only looked "
        "at.",
        "tests/hosts/calls/test_identity.py",
        "tests/hosts/test_membership.py::test_a_refused_host_is_sent_nothing_but_looks",
        wrong=(
            (_IDENTITY, "bool(expected) and answers", "bool(expected and answers) and answers"),
            (_IDENTITY, "    return bool(expected) and", "    return"),
            (
                _FAR,
                "        if is_another(message.host_id, self._host_id):\n",
                "        if False:\n",
            ),
            (_NEAR, '        if name != "look" and self._is_barred():\n', "        if False:\n"),
            (
                _NEAR,
                "            if self._host_id and not answer.host_id:  #",
                "            if False:  #",
            ),
            (
                _NEAR,
                "        return why is not None and type(why)",
                "        return self._refusal is not None and type(why)",
            ),
            (_NEAR, "            host_id=self._host_id,\n", ""),
            (
                _MEMBERSHIP,
                "head=head, host_id=known.host_id, silent",
                'head=head, host_id="", silent',
            ),
            (
                _NEAR,
                "self._host_id, self._another = self._host_id or answers,",
                "_, self._another = 0,",
            ),
        ),
    ),
    rule(
        "A call runs once, is never lost without word, and ends where nobody waits for it.",
        "tests/hosts/calls/test_orders.py",
        wrong=(
            (
                _SESSION,
                "        if (known := self._calls.get(number)) is not None:\n",
                "        if (known := None) is not None:\n",
            ),
            (_SESSION, "if number in self._never or (", "if ("),
            (_SESSION, "(number <= self._upto and number not in self._may_begin)", "False"),
            (
                _SESSION,
                "            self._leave(self._calls.pop(number))\n",
                "            self._calls.pop(number)\n",
            ),
            (_FAR, "        if message.agent != self._start:\n", "        if False:\n"),
            (_NEAR, "            self._undelivered.add(number)\n", ""),
            (_NEAR, "if answer.restarted and call.agent:", "if False:"),
        ),
    ),
    rule(
        "A simulated host that dies is found out late, repaired once it is lost, and used again.",
        "tests/simulated/fleet/test_outages.py",
        wrong=(
            (_FLEET_HOSTS, "if self._standing.state is not HostState.FINE:", "if False:"),
            (
                _FLEET_HOSTS,
                "        known = standing.gone or (self.is_up and standing.answers)\n",
                "        known = True\n",
            ),
            (
                _FLEET_HOSTS,
                "        if engine.runs and engine.state is ReplicaState.STARTING:\n",
                "        if engine.state is ReplicaState.STARTING:\n",
            ),
            (
                _OUTAGES,
                "                return lost_device(",
                "                return silent_device(",
            ),
            (
                _OUTAGES,
                "            changed |= standing.gone != before[name].gone\n",
                "            changed |= not standing.answers and before[name].answers\n",
            ),
        ),
    ),
    rule(
        "A profile is stale once it speaks for no host that has its hardware.",
        f"{_TEST_STALENESS}test_a_profile_is_stale_once_it_speaks_for_no_host_that_has_its_hardware",
        wrong=(
            (_STALENESS, "    return min(found, key=differs)\n", "    return next(found)\n"),
            (
                _STALENESS,
                "len(_reasons_to_measure(profile, now)), len(_reasons(profile, now))",
                "len(_reasons(profile, now)), 0",
            ),
            (
                _STALENESS,
                "self._known_for[0] is not devices or self._known_for[1] != versions",
                "self._known_for[0] is not devices",
            ),
        ),
    ),
    rule(
        "A host that is away says that its Ray is another one than the head's, if it is.",
        f"{_TEST_STATE}::test_a_host_that_is_away_with_another_ray_is_told_so",
        "tests/cli/doctor/test_cluster.py::test_another_ray_is_told",
        "tests/cli/doctor/test_cluster.py::test_a_host_whose_ray_cannot_join_is_told",
        wrong=(
            (_STATE, "    if not is_away or not host.ray_version", "    if not host.ray_version"),
            (_STATE, "not is_away or not host.ray_version or", "not is_away or"),
            (_STATE, "host.ray_version == head_ray or not head_ray:", "False:"),
            (_STATE, " or not head_ray:", ":"),
            (_DOCTOR, "head.ray_version and host.ray_version != head.ray_version", "False"),
            (_DOCTOR, "if host.ray_version and head.ray_version and host", "if host"),
            (_DOCTOR, 'facts.ray_of_cluster not in ("", facts.ray_version)', "False"),
            (_DOCTOR, 'not in ("", facts.ray_version)', "not in (facts.ray_version,)"),
        ),
    ),
    rule(
        "A Ray that lets somebody in without the token is not used, and only a refusal is proof.",
        "tests/cluster/test_bridge.py",
        "tests/cluster/test_directory.py",
        "tests/cli/doctor/test_cluster.py::test_a_ray_that_lets_strangers_in_is_told",
        wrong=(
            (_BRIDGE, '    if answer.get("refused"):\n', '    if not answer.get("answers"):\n'),
            (_BRIDGE, '    if answer.get("answers"):\n', "    if False:\n"),
            (_BRIDGE, "        await self._refused_a_stranger()\n", ""),
            (_BRIDGE, "        if self._open:\n", "        if False:\n"),
            (_ASKED, "    if any(word in said for word in REFUSALS):\n", "    if True:\n"),
            (_ASKED, '"answers": True,', '"refused": True,'),
            (_DIRECTORY, "    if answer.answers:\n", "    if not answer.refused:\n"),
            (_DIRECTORY, "    if answer.answers:\n", "    if False:\n"),
            (_ASKED, '"RAY_AUTH_MODE": "disabled"}', '"RAY_AUTH_MODE": "token"}'),
            (_ASKED, 'if "RAY_AUTH" not in name}', "}"),
            (_DOCTOR, " and facts.stranger.answers:", " and facts.stranger.refused:"),
        ),
    ),
)
