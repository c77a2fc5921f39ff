"""Looks at what may never answer, and what is said of it."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_RUNNER: Final = "partitiond/engines/process/runner.py"
_LOOKS: Final = "partitiond/platform/deadline_calls.py"
_WATCHING: Final = "partitiond/controller/runtime/watching.py"
_DISCOVERY: Final = "partitiond/devices/gpus/discovery.py"
_TELEMETRY: Final = "partitiond/devices/telemetry/gpu.py"
_DOCTOR: Final = "partitiond/cli/doctor/gather.py"
_GAUGES: Final = "partitiond/devices/gauges.py"
_ASSEMBLY: Final = "partitiond/controller/assembly.py"
_PLANNING: Final = "partitiond/controller/plans/planning.py"
_LOOP: Final = "partitiond/controller/runtime/loop.py"
_SERVICE: Final = "partitiond/controller/service.py"
_HEALTH: Final = "partitiond/controller/views/health.py"
_KEYS: Final = "partitiond/controller/keys/use_cases.py"
_HANGING: Final = "tests/controller/test_hanging.py::"
_NVML: Final = "tests/devices/nvml/test_hanging.py::"

LOOKS: Final[tuple[Rule, ...]] = (
    rule(
        "A /proc that hangs stops no plan.",
        "tests/engines/process/test_runner.py::"
        "test_the_peak_of_a_placed_engine_is_not_waited_for_while_proc_hangs",
        wrong=(
            (_RUNNER, "        if not look.future.done():\n            return 0\n", ""),
            (
                _RUNNER,
                "        if look is None:\n            look = self._weighing",
                "        if True:\n            look = self._weighing",
            ),
            (_RUNNER, "        del self._weighing[handle.generation]\n", ""),
        ),
    ),
    rule(
        "A look has a deadline, and each subject one thread.",
        "tests/platform/test_deadline_calls.py",
        wrong=(
            (
                _LOOKS,
                "            if overdue or len(lane.waiting) >= MAX_WAITING:\n",
                "            if len(lane.waiting) >= MAX_WAITING:\n",
            ),
            (
                _LOOKS,
                "            if overdue or len(lane.waiting) >= MAX_WAITING:\n",
                "            if overdue:\n",
            ),
            (_LOOKS, "            if not lane.works:\n", "            if True:\n"),
            (
                _LOOKS,
                "            if future.set_running_or_notify_cancel():\n",
                "            future.set_running_or_notify_cancel()\n            if True:\n",
            ),
            (
                _LOOKS,
                "                    future.set_exception(error)\n",
                "                    future.set_result(error)\n",
            ),
            (
                _LOOKS,
                "                    del self._lanes[subject]  # engines",
                "                    lane.since = None  # engines",
            ),
            (
                _LOOKS,
                "        if self.future.cancel() or not self.future.done():\n",
                "        if not self.future.done():\n",
            ),
            (
                _LOOKS,
                "self._lanes.setdefault(subject, _Lane())",
                'self._lanes.setdefault("", _Lane())',
            ),
        ),
    ),
    rule(
        "A window of telemetry ends though the driver hangs, and its GPU is silent to all.",
        "tests/devices/telemetry/test_hanging.py",
        wrong=(
            (_TELEMETRY, "            self._looks.begin(self._uuid, self._thread.join)\n", ""),
            (
                _TELEMETRY,
                "            self._looks.ask(self._uuid, lambda: None)\n",
                "            pass\n",
            ),
            (_TELEMETRY, "missing=dict.fromkeys(_FIGURES, self._silence)", ""),
            (
                "partitiond/devices/telemetry/host.py",
                "        return GpuFigures(missing=dict.fromkeys(CPU_FIGURES, silence))\n",
                "        return GpuFigures()\n",
            ),
        ),
    ),
    rule(
        "The doctor says that the driver hangs.",
        "tests/cli/test_simulated_gpu.py::test_nvml_that_hangs_is_said",
        wrong=(
            (_DOCTOR, "            looks=looks,\n", ""),
            (_DOCTOR, "    if devices.unseen:\n", "    if details and devices.unseen:\n"),
            (_DOCTOR, "    elif facts.gpu.words:\n", "    elif gpus:\n"),
        ),
    ),
    rule(
        "A pass waits for no look at the devices, and says which device is silent.",
        "tests/controller/runtime/test_watching.py",
        wrong=(
            (
                _WATCHING,
                "await asyncio.wait([self._under_way], timeout=self._patience_seconds)",
                "await asyncio.wait([self._under_way])",
            ),
            (
                _WATCHING,
                "        if self._under_way is not None:\n"
                "            if self._slow or not await self._waited():\n",
                "        if self._under_way is not None and self._slow is None:\n"
                "            if self._slow or not await self._waited():\n",
            ),
            (
                _WATCHING,
                "if self.problem or not silent or len(silent) < len(self.devices):",
                "if self.problem or not silent or len(silent) <= len(self.devices):",
            ),
            (
                _WATCHING,
                "if self.problem or not silent or len(silent) < len(self.devices):",
                "if self.problem or not silent:",
            ),
            (
                _WATCHING,
                "            self._under_way, self._slow = None, False\n",
                "            pass\n",
            ),
            (
                _WATCHING,
                "            seen += tuple(silent_device(device, unseen) for device in missing)\n",
                "            seen += tuple(missing)[:0]\n",
            ),
            (
                _WATCHING,
                "            self.looked |= not isinstance(error, SilentError)\n",
                "            self.looked = True\n",
            ),
            (
                _WATCHING,
                "        if problem != self.problem:\n            self._troubled(problem)\n",
                "        self._troubled(problem)\n",
            ),
        ),
    ),
    rule(
        "What runs is adopted before the first look, and nothing is planned before it has ended.",
        "tests/controller/runtime/test_watching.py",
        f"{_HANGING}test_a_daemon_adopts_and_is_ready_while_the_driver_hangs",
        wrong=(
            (
                _SERVICE,
                "            await parts.controller.adopt()\n"
                "            await parts.devices.refresh(0.0)\n",
                "            await parts.devices.refresh(0.0)\n"
                "            while not parts.devices.looked:\n"
                "                await parts.devices.refresh(0.0)\n"
                "            await parts.controller.adopt()\n",
            ),
            (
                _ASSEMBLY,
                "        if self.devices.looked:  # a plan without devices would end what is only "
                "not seen yet\n            self.plans.chain.consider()\n",
                "        self.plans.chain.consider()\n",
            ),
            (
                _WATCHING,
                "            if device.health is DeviceHealth.SILENT\n            else Unknown",
                "            if not device\n            else Unknown",
            ),
        ),
    ),
    rule(
        "A replica that ended on a silent device starts on another; what runs there stays.",
        f"{_HANGING}test_a_dead_engine_of_a_silent_device_starts_on_another",
        wrong=(
            (
                _ASSEMBLY,
                "        if self._known_cut_off - before:\n            self.plan_again()\n",
                "",
            ),
            (
                "partitiond/core/hardware/kinds.py",
                "return dataclasses.replace(device, cordoned=False, max_replicas=most)",
                "return dataclasses.replace(device, cordoned=False)",
            ),
            (
                _ASSEMBLY,
                "        return cut_off(placements, self.devices.devices, live, asleep)\n",
                "        return cut_off(placements, self.devices.devices, (), asleep)\n",
            ),
        ),
    ),
    rule(
        "Readiness and the watchdog go by the last pass that has ended.",
        f"{_HANGING}test_no_pass_that_ends_is_no_sign_of_life",
        wrong=(
            (
                _SERVICE,
                "return not ended and not self._parts.controller.stalled",
                "return not ended",
            ),
            (
                _HEALTH,
                "self._controller.problem or self._controller.stalled,",
                "self._controller.problem,",
            ),
            (
                _LOOP,
                "if seconds < self._policy.stalled_seconds:",
                "if seconds >= self._policy.stalled_seconds:",
            ),
            (
                _LOOP,
                "        self.passed_at = self._clock.monotonic()\n"
                "        if self._observer is not None:",
                "        if self._observer is not None:",
            ),
        ),
    ),
    rule(
        "A key is called removed once the endpoint refuses it.",
        f"{_HANGING}test_a_removed_key_is_not_called_removed_while_the_proxy_keeps_it",
        wrong=(
            (_KEYS, "        if not await self._tell(key_id):\n", "        if False:\n"),
            (
                _KEYS,
                "            if not self._endpoint.may_take(key_id):\n                raise\n",
                "            raise\n",
            ),
            (
                _KEYS,
                "            if not self._endpoint.may_take(key_id):\n                raise\n",
                "            pass\n",
            ),
            (
                _KEYS,
                "        if not told:\n            why",
                "        if not told and self._endpoint.table is None:\n            why",
            ),
        ),
    ),
    rule(
        "A GPU that hangs is silent as it was seen last, and holds up no other.",
        f"{_NVML}test_a_look_ends_and_tells_which_gpus_are_silent",
        f"{_NVML}test_the_first_look_ends_without_what_it_could_not_see",
        f"{_NVML}test_own_processes_that_cannot_be_told_make_gpus_silent",
        f"{_NVML}test_a_change_of_mig_mode_makes_no_gpu_silent",
        f"{_NVML}test_gauges_come_without_gpus_that_hang",
        wrong=(
            (
                _DISCOVERY,
                'self._looks.begin(self._uuids.get(i, f"GPU {i}"), functools.partial(look_at, i))',
                'self._looks.begin("GPUs", functools.partial(look_at, i))',
            ),
            (
                _DISCOVERY,
                'self.unseen = "" if silent.keys() <= self._uuids.keys() else self._silence',
                'self.unseen = ""',
            ),
            (
                _DISCOVERY,
                '        self.unseen = "" if self._known else self._silence\n',
                '        self.unseen = ""\n',
            ),
            (
                _DISCOVERY,
                "        if QUIET.changing:\n            return found\n",
                "",
            ),
            (_GAUGES, "        except SilentError:", "        except ZeroDivisionError:"),
        ),
    ),
)
