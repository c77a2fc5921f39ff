"""Engines as a user of their own, and the dtype that a CPU computes."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_SANDBOX: Final = "partitiond/engines/process/sandbox.py"
_SHIM: Final = "partitiond/engines/process/shim.py"
_SIGNALS: Final = "partitiond/engines/process/signals.py"
_OWNERS: Final = "partitiond/engines/process/owners.py"
_USER: Final = "partitiond/engines/process/engine_user.py"
_HOST: Final = "partitiond/cli/setup/engine_host.py"
_RELEASES: Final = "partitiond/core/replica/releases.py"
_GROUPS: Final = "partitiond/cli/setup/isolation_groups.py"
_SETUP: Final = "partitiond/cli/setup/commands.py"
_RUNNER: Final = "partitiond/engines/process/runner.py"
_HELPER: Final = "partitiond/devices/mig/helper.py"
_SOCKETS: Final = "partitiond/platform/unix_socket.py"
_SPEED: Final = "partitiond/devices/bandwidth.py"
_KEEPER: Final = "partitiond/devices/mps/keeper.py"
_KEPT: Final = "partitiond/devices/mps/kept.py"
_MPS: Final = "partitiond/devices/mps/daemon.py"
_PROGRAMS: Final = "partitiond/engines/process/kept_programs.py"
_UNITS: Final = "partitiond/cli/setup/mps_units.py"
_TEST_KEPT: Final = "tests/devices/mps/test_kept.py"
_TEST_SANDBOX: Final = "tests/engines/process/test_sandbox.py"
_TEST_USER: Final = "tests/engines/process/test_engine_user.py"

ENGINE_USER: Final[tuple[Rule, ...]] = (
    rule(
        "An engine of another user reaches neither its neighbours nor what keeps it.",
        _TEST_SANDBOX,
        wrong=(
            (_SANDBOX, "        enter_domain()\n        shim.become", "        shim.become"),
            (_SANDBOX, "        os.dup2(null, 0)\n", ""),
            (_SANDBOX, "    os.set_inheritable(output, False)\n", ""),
            (_SANDBOX, "os.umask(0)\n    try", "os.umask(0o077)\n    try"),
        ),
    ),
    rule(
        "What is said of an engine of another user is believed only as far as it can be true.",
        _TEST_SANDBOX,
        wrong=(
            (_SHIM, "(OSError, ValueError, RecursionError)", "(OSError, ValueError)"),
            (_SHIM, "and 0 <= status < 1 << 16", ""),
            (_SHIM, "and 0 <= peak < MOST_MEMORY_BYTES", ""),
            (_SHIM, "        self._take(more)  # an engine that ended at once\n", ""),
        ),
    ),
    rule(
        "An engine of another user is killed by its cgroup, and by no other.",
        _TEST_USER,
        wrong=(
            (_SHIM, 'os.write(descriptor, b"1")', 'os.write(descriptor, b"0")'),
            (_SIGNALS, ' if record["boot_id"] == boot_id() else ""', ""),
            (_SIGNALS, "        shim.kill_cgroup(cgroup_of(run_dir))\n", ""),
            (
                _OWNERS,
                "found |= dict.fromkeys(shim.cgroup_pids(cgroup_of(folder.path)), "
                "launch.replica_id)",
                "pass",
            ),
        ),
    ),
    rule(
        "A model is opened to engines, and nothing that lies beside it or behind a link.",
        _TEST_USER,
        wrong=(
            (
                _USER,
                "        if not real.is_relative_to(root):\n            continue\n",
                "",
            ),
            (_USER, "*_between(root, folder.resolve()), ", ""),
            (_USER, "            _open_parents(real, root)\n", "            pass\n"),
            (_USER, "        require_readable(folder, self.shown, self.hidden)\n", ""),
        ),
    ),
    rule(
        "An engine's memory is what the kernel says of it at least, and stays limited.",
        _TEST_SANDBOX,
        wrong=(
            (_SHIM, "return max(self._told_bytes, charged_bytes(self.cgroup))",
             "return self._told_bytes"),
            (_SHIM, "return max(self._told_bytes, charged_bytes(self.cgroup))",
             "return charged_bytes(self.cgroup)"),
            (_SHIM, 'in ("anon", "shmem")', 'in ("anon",)'),
            (_SHIM, "        if self._limit:\n            limit_memory(self.cgroup, self._limit)\n"
             "        return", "        return"),
        ),
    ),
    rule(
        "An engine leads nobody to a socket that is not its own.",
        "tests/platform/test_unix_socket.py",
        wrong=(
            (_SOCKETS, " | os.O_NOFOLLOW", ""),
            (_SOCKETS, "if not stat.S_ISSOCK(os.fstat(found).st_mode)", "if False"),
            (_SOCKETS, 'yield f"/proc/self/fd/{found}"', "yield path"),
            (_SOCKETS, "        os.close(found)\n", "        pass\n"),
        ),
    ),
    rule(
        "A model that the engines' user cannot see or read is refused, and says where it lies.",
        _TEST_USER,
        wrong=(
            (_USER, "if real.is_relative_to(place)", "if False"),
            (_USER, "real = path.resolve()\n        if real.is", "real = path\n        if real.is"),
            (_USER, "        above |= {*real.parents}\n", ""),
            (_USER, "(folder, self.shown,", "(folder, self.models_dir,"),
        ),
    ),
    rule(
        "Engines get a user of their own where the host can, and a host that cannot is refused.",
        "tests/cli/test_engine_host.py",
        wrong=(
            (_HOST, "return not problem, problem", "return False, problem"),
            (_HOST, "    if asked and problem:", "    if False:"),
            (_HOST, "    if not pure_cgroups:", "    if False:"),
            (_HOST, "if kernel < KERNEL_SINCE:", "if kernel[0] < KERNEL_SINCE[0]:"),
        ),
    ),
    rule(
        "An engine runs as its isolation group's user, or does not start.",
        _TEST_USER,
        wrong=(
            (_RUNNER, "self._user.in_group(launch.isolation_group)", "self._user"),
            (_USER, "if not _is_socket(launcher)", "if not launcher.exists()"),
            (_USER, "self.cache_dir.with_name(of_group(self.cache_dir.name, group))",
             "self.cache_dir"),
            (_USER, "        user.in_group(group)\n", "        user.in_group('')\n"),
        ),
    ),
    rule(
        "Another isolation group is another release, and the way back leads to the former group.",
        "tests/core/replica/test_releases.py",
        wrong=(
            (_RELEASES, "    if form.isolation_group:\n", "    if False:\n"),
            (_RELEASES, "    if form.isolation_group:\n", "    if True:\n"),
            (_RELEASES, "        isolation_group=release.isolation_group,\n", ""),
        ),
    ),
    rule(
        "A group's units are those of the default group under its own names, and setup keeps them.",
        "tests/cli/test_setup.py",
        wrong=(
            (_GROUPS, "return _NAMES.sub(lambda name: of_group(name[0], group), text)",
             "return text.replace('partitiond', f'partitiond-{group}')"),
            (_GROUPS, "return _NAMES.sub(lambda name: of_group(name[0], group), text)",
             "return _NAMES.sub(lambda name: of_group(name[0], group), text, 1)"),
            (_GROUPS, 'if f" {ENGINE_USER} " in line', 'if f" {ENGINE_USER}" not in line'),
            (_SETUP, "isolation_groups=groups | kept", "isolation_groups=groups"),
        ),
    ),
    rule(
        "A keeper asks what the control program may be asked, and shows nothing but its logs.",
        "tests/devices/mps/test_keeper.py",
        wrong=(
            (_KEEPER, " and line.isprintable()", ""),
            (_KEEPER, "        if name not in LOGS:\n", "        if False:\n"),
            (_KEEPER, " | os.O_NOFOLLOW", ""),
            (_KEEPER, "said[:MAX_SAID_BYTES]", "said"),
        ),
    ),
    rule(
        "A keeper that says anything else than keepers say is an error, and no list of clients.",
        f"{_TEST_KEPT}::test_a_keeper_that_lies_is_an_error_and_no_list",
        wrong=(
            (_KEPT, "if not isinstance(answer, dict):", "if answer is None:"),
            (_KEPT, "(ValueError, RecursionError)", "ValueError"),
            (_KEPT, "isinstance(said, str) and isinstance(complaints, str)", "complaints == ''"),
        ),
    ),
    rule(
        "An MPS daemon serves one isolation group, and none ends under an engine.",
        _TEST_KEPT,
        wrong=(
            (_MPS, "if not users and not await self.clients():", "if not await self.clients():"),
            (_MPS, "if not users and not await self.clients():", "if not users:"),
            (_MPS, "if not known.launcher and not wanted.isolation_group:",
             "if not known.launcher:"),
            (_MPS, "return record.MpsRecord(self.uuid, None, str(launcher), group)",
             'return record.MpsRecord(self.uuid, None, str(launcher), "")'),
            (_PROGRAMS, "        if group:\n", "        if False:\n"),
        ),
    ),
    rule(
        "An engine runs as the user of the MPS daemon whose client it is, or of its group.",
        _TEST_USER,
        wrong=(
            (_USER, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PIPE_DIRECTORY"),
            (_USER, 'pipe_dir.is_relative_to(launcher.with_suffix(""))', "pipe_dir"),
            (_USER, "launcher = mps_launcher(self.launcher)", "launcher = self.launcher"),
        ),
    ),
    rule(
        "Programs under MPS share what MPS needs, with nobody else.",
        "tests/deploy/test_units.py",
        wrong=(
            (_UNITS, "BindPaths=/run/partitiond-mps /run/partitiond-mps:/dev/shm",
             "BindPaths=/run/partitiond-mps /dev/shm"),
            (_UNITS, "        if text.count(old) != 1:\n", "        if False:\n"),
            (_UNITS, "=/run/partitiond-engine /run/partitiond-mps", "=/run/partitiond-engine"),
        ),
    ),
    rule(
        "The MIG helper does nothing for who speaks another language.",
        "tests/devices/mig/test_helper.py",
        wrong=(
            (_HELPER, "error.hint, None))\n                    return\n",
             "error.hint, None))\n                    continue\n"),
            (_HELPER, "connection.sendall(protocol.refusal_line(error.message, error.hint, None))\n"
             "                    return\n", "return\n"),
            (_HELPER, " uuid, step = protocol", " uuid, step = None, protocol"),
        ),
    ),
    rule(
        "float32 is chosen where bfloat16 is emulated, and only there.",
        "tests/devices/test_bandwidth.py::test_float32_is_chosen_only_where_bfloat16_is_emulated",
        wrong=(
            (_SPEED, "bool(flags) and not any(", "not any("),
            (_SPEED, '"avx512bw", "avx512dq", "avx512vl"', '"avx512f"'),
            (_SPEED, '    frozenset({"bf16"}),\n', ""),
        ),
    ),
)  # fmt: skip
