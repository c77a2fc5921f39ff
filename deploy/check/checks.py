"""Checks the service under a real systemd; run-under-systemd.sh starts it inside its namespaces.

The checks install with `partitiond setup`, serve a model by the simulated engine, and compare the
state of systemd, the kernel and partitiond itself after each event in the life of a service.
"""

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from deploy.check import several_hosts
from deploy.check.rig import (
    BIN,
    CONFIG_FILE,
    STATE,
    UNIT,
    all_serving,
    cgroup,
    engine,
    main_pid,
    partitiond,
    ready,
    run,
    serving,
    settings,
    shown,
    wait_for,
)

CONFIG = """\
[gpu]
enabled = false
[cpu]
memory = "6GiB"
[profiling]
min_window_seconds = 0.2
max_window_seconds = 0.5
max_batch = 4
cpu_partition_cores = [1]
"""
FLEET = """\
[[models]]
model = "opt-125m"
name = "checked"
weights = "dummy"
engine_kind = "simulated"
workload = { prompt_tokens = 16, output_tokens = 8 }
max_replicas = 1
"""


# --- the checks, in order ----------------------------------------------------------------------


def setup_installs_and_starts() -> str:
    """`partitiond setup` does everything that it announces, and the service is up."""
    CONFIG_FILE.parent.mkdir(parents=True, exist_ok=True)
    settings(CONFIG)
    before = partitiond("setup", "--no-gpu", "--no-engine")
    assert "to do" in before
    assert not Path("/etc/systemd/system/partitiond.service").exists(), "shown, and yet done"
    partitiond("setup", "--no-gpu", "--no-engine", "--bin-dir", str(BIN), "--apply")
    assert shown("ActiveState") == "active"
    owner = Path(f"/proc/{main_pid()}").stat().st_uid
    assert owner == pwd.getpwnam("partitiond").pw_uid, owner
    told = json.loads(
        partitiond(
            "setup",
            "--no-gpu",
            "--no-engine",
            "--bin-dir",
            str(BIN),
            "--apply",
            "--json",
        )
    )
    assert {step["state"] for step in told} == {"done"}, told
    return f"user {pwd.getpwnam('partitiond').pw_uid}; a second setup changes nothing"


def a_model_serves() -> str:
    """Profile, plan and serve, under all the hardening of the unit."""
    wait_for("the daemon", ready)
    fleet = Path("/out/fleet.toml")
    fleet.write_text(FLEET)
    partitiond("up", "-f", str(fleet))
    wait_for("the status line", lambda: "1 of 1" in shown("StatusText"))
    return f"status: {shown('StatusText')}"


def main_process(shim: int) -> int:
    """The engine's own process, below its supervisor."""
    folder = next(f for f in Path("/run/partitiond").iterdir() if _supervisor(f) == shim)
    return int(json.loads((folder / "process.json").read_text())["main_pid"])


def _supervisor(folder: Path) -> int:
    try:
        return int(json.loads((folder / "process.json").read_text())["pid"])
    except OSError:
        return 0


def engine_is_a_user_of_its_own() -> str:
    """The engine is another user, without capabilities, in the sandbox and cgroup of its unit."""
    pid = main_process(engine())
    daemon, user = pwd.getpwnam("partitiond"), pwd.getpwnam("partitiond-engine")
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert status["Uid"].split() == [str(user.pw_uid)] * 4, status["Uid"]
    assert daemon.pw_gid not in map(int, status["Groups"].split()), status["Groups"]
    assert {status[f"Cap{kind}"].strip("\t0") for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {
        ""
    }
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    where = cgroup(pid)
    assert "/partitiond-engine@" in where, where
    assert Path(f"/sys/fs/cgroup{where}/cgroup.kill").stat().st_gid == daemon.pw_gid
    ours, theirs = (Path(f"/proc/{n}/ns/net").readlink() for n in ("self", pid))
    assert ours != theirs, "it has the network of the host"
    assert json.loads(asked("checked"))["choices"][0]["text"]
    sockets = Path("/run/partitiond-engine")
    found, room = sockets.stat(), os.statvfs(sockets)
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, daemon.pw_gid, 0o750), found
    assert (room.f_blocks * room.f_frsize, room.f_files) == (16 << 20, 16 << 10), room
    temporary = os.statvfs(f"/proc/{pid}/root/tmp")
    assert (temporary.f_blocks * temporary.f_frsize, temporary.f_files) == (2 << 30, 64 << 10)
    tasks = run("systemctl", "show", "--value", "--property=TasksMax", where.rpartition("/")[2])
    assert tasks.strip() == "4096", tasks
    groups = Path(f"/proc/{main_pid()}/status").read_text().partition("Groups:")[2].split("\n")[0]
    assert str(user.pw_gid) not in groups.split(), groups
    return f"user {user.pw_uid}, {where}"


def asked(model: str) -> str:
    """A completion, through the endpoint."""
    body = json.dumps({"model": model, "prompt": "hello", "max_tokens": 4})
    words = ("-H", "content-type: application/json", "-d", body)
    return run("curl", "-sS", "--fail", *words, "http://127.0.0.1:8000/v1/completions")


def a_hostile_engine_reaches_nothing(
    launcher: str = "/run/partitiond-engine.sock", shared: tuple[str, ...] = ()
) -> str:
    """A program in an engine's place, started as the daemon starts engines, tries everything."""
    shim = engine()
    victim = main_process(shim)
    record = next(f for f in Path("/run/partitiond").iterdir() if _supervisor(f) == shim)
    own = next(Path("/run/partitiond-engine").iterdir())
    parent = int(Path(f"/proc/{victim}/stat").read_text().rsplit(")", 1)[1].split()[1])
    group = Path("/var/cache/partitiond-engine-other")  # as that of another isolation group
    group.mkdir(mode=0o700, exist_ok=True)
    os.chown(group, pwd.getpwnam("nobody").pw_uid, 0)
    given = {
        "daemon_uid": pwd.getpwnam("partitiond").pw_uid,
        "pids": [main_pid(), shim, parent, victim, 1],
        "foreign": [main_pid(), shim, 1],
        "cgroup": f"/sys/fs/cgroup{cgroup(victim)}",
        "files": [
            str(STATE / "admin-token"), str(STATE / "metrics-token"),
            str(STATE / "partitiond.sqlite3"), str(CONFIG_FILE), str(record / "command.json"),
            "/etc/shadow", "/dev/sda",
        ],
        "folders": [
            str(STATE), "/run/partitiond", "/run/partitiond-engine", str(record), str(own),
            "/var/cache/partitiond/native", "/run/user", "/run/systemd/journal", str(group),
        ],
        "read_only": [
            "/var/cache/partitiond/models", "/var/cache/partitiond/engines", "/etc", "/usr", "/opt",
            "/", "/var", "/run", "/sys/fs/cgroup", "/proc/sys/kernel", str(BIN),
        ],
        "sockets": [
            launcher, str(own / "engine.sock"), str(record / "engine.sock"),
            "/run/partitiond-mig/helper.sock", "/run/systemd/private",
            "/run/systemd/journal/socket", "/run/dbus/system_bus_socket",
            "\0/org/freedesktop/systemd1",
        ],
        "ports": [8000, 8400],
    }  # fmt: skip
    code = (
        "import json, os, socket, sys\n"
        "given = json.load(sys.stdin)\n"
        "read, write = os.pipe()\n"
        "c = socket.socket(socket.AF_UNIX); c.connect(given.pop('launcher'))\n"
        "socket.send_fds(c, [json.dumps(given).encode() + b'\\n'], [write]); os.close(write)\n"
        "print(os.read(read, 0) or '', end='')\n"
        "while data := os.read(read, 65536): print(data.decode(), end='', flush=True)\n"
        "print(c.makefile().read())\n"
    )
    argv = [sys.executable, "-I", str(Path(__file__).with_name("hostile.py")), json.dumps(given)]
    asked_for = {"version": 1, "argv": argv, "env": {}, "cores": [0], "launcher": launcher}
    done = subprocess.run(
        ["runuser", "-u", "partitiond", "--", sys.executable, "-c", code],
        input=json.dumps(asked_for),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    tried = [line for line in done.stdout.splitlines() if line.startswith("tried")]
    reached = [line for line in done.stdout.splitlines() if line.startswith("reached")]
    group.rmdir()
    assert tried, done.stdout + done.stderr
    assert reached == [f"reached {what}" for what in shared], reached
    # The same program as the daemon's user: what engines reached before, so the attempts do work.
    before = run("runuser", "-u", "partitiond", "--", *argv[:1], *argv[2:]).count("reached")
    assert before >= 20, f"the daemon's user reaches {before}"
    assert engine() == shim, "the other engine is gone"
    for user in ("nobody", "partitiond-engine"):
        refused = subprocess.run(
            ["runuser", "-u", user, "--", sys.executable, "-c", code],
            input=json.dumps(asked_for),
            check=False,
            capture_output=True,
            text=True,
        )
        assert "PermissionError" in refused.stderr, f"{user} starts engines: {refused}"
    return f"{tried[0]}, reached {len(shared)}; the daemon's user reaches {before}"


def _next_engine(old: int) -> None:
    def another() -> bool:
        view = serving()
        return view is not None and view.pid != old

    wait_for("the next engine", another)


def an_engine_ends_with_its_supervisor() -> str:
    """SIGKILL of the supervisor ends the engine's unit; then the next one starts, and serves."""
    shim = engine()
    unit = cgroup(main_process(shim))
    os.kill(shim, signal.SIGKILL)
    wait_for("the end of the unit", lambda: not Path(f"/sys/fs/cgroup{unit}").exists())
    _next_engine(shim)
    assert json.loads(asked("checked"))["choices"][0]["text"]
    return unit.rpartition("/")[2]


def engines_of_both_users_are_adopted() -> str:
    """Each way between them: what runs goes on, and the next engine is the chosen user's."""
    words = ("setup", "--no-gpu", "--no-engine", "--bin-dir", str(BIN), "--apply")
    for user, option in (("partitiond", ("--no-engine-user",)), ("partitiond-engine", ())):
        old = engine()
        before = Path(f"/proc/{main_process(old)}").stat().st_uid
        partitiond(*words, *option)
        run("systemctl", "restart", UNIT)
        assert engine() == old, "it serves on"
        assert Path(f"/proc/{main_process(old)}").stat().st_uid == before
        os.kill(old, signal.SIGKILL)
        _next_engine(old)
        owner = Path(f"/proc/{main_process(engine())}").stat().st_uid
        assert owner == pwd.getpwnam(user).pw_uid, owner
        assert json.loads(asked("checked"))["choices"][0]["text"]
    return "and a setup without the option brings the other user back"


def groups_are_kept_apart() -> str:
    """An engine of another group is another user, which reaches nothing of the default group."""
    words = ("setup", "--no-gpu", "--no-engine", "--bin-dir", str(BIN), "--apply")
    partitiond("models", "add", "opt-125m", "--name", "early", "--isolation-group", "blue",
               "--no-auto", "--engine-kind", "simulated", "--weights", "dummy")  # fmt: skip
    warned = json.loads(partitiond("models", "show", "early", "--json"))["warning"]
    assert "no isolation group blue" in warned, warned
    partitiond("models", "remove", "early")
    partitiond(*words, "--isolation-group", "blue")
    partitiond(*words, "--engine-user")  # keeps the group
    partitiond(
        "models", "update", "checked", "--isolation-group", "blue", "--allow-outage", "--no-wait"
    )
    user = pwd.getpwnam("partitiond-engine-blue")
    pid = wait_for("an engine of the group", lambda: _engine_of(user.pw_uid))
    assert "/partitiond-engine-blue@" in cgroup(pid), cgroup(pid)
    assert json.loads(asked("checked"))["choices"][0]["text"]
    neighbour = in_a_sandbox(
        "import os, socket, time; s = socket.socket(socket.AF_UNIX); s.bind('engine.sock'); "
        "s.listen(); print(os.getpid(), os.getcwd(), flush=True); time.sleep(200)",
        "/run/partitiond-engine.sock",
    )
    assert neighbour.stdout is not None
    victim, folder = neighbour.stdout.readline().split()
    code = (
        "import os, resource, socket, sys\n"
        "pid = int(sys.argv[1])\n"
        "def connect(path): socket.socket(socket.AF_UNIX).connect(path)\n"
        "tries = {\n"
        " 'prlimit': lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1 << 40, 1 << 40)),\n"
        " 'affinity': lambda: os.sched_setaffinity(pid, os.sched_getaffinity(0)),\n"
        " 'priority': lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),\n"
        " 'users priority': lambda: os.setpriority(os.PRIO_USER, int(sys.argv[2]), 19),\n"
        " 'signal': lambda: os.kill(pid, 0),\n"
        " 'environment': lambda: open(f'/proc/{pid}/environ', 'rb').read(),\n"
        " 'memory': lambda: open(f'/proc/{pid}/mem', 'rb').read(1),\n"
        " 'cache': lambda: os.listdir('/var/cache/partitiond-engine'),\n"
        " 'cache written': lambda: open('/var/cache/partitiond-engine/x', 'w'),\n"
        " 'folder': lambda: os.listdir('/run/partitiond-engine'),\n"
        " 'socket': lambda: connect(sys.argv[3]),\n"
        " 'launcher': lambda: connect('/run/partitiond-engine.sock'),\n"
        " 'own launcher': lambda: connect('/run/partitiond-engine-blue.sock'),\n"
        "}\n"
        "for name, attempt in tries.items():\n"
        "    try: attempt()\n"
        "    except OSError: continue\n"
        "    print('reached', name)\n"
        "print('tried', len(tries))\n"
    )
    given = [victim, str(pwd.getpwnam("partitiond-engine").pw_uid), f"{folder}/engine.sock"]
    told = in_a_sandbox(code, "/run/partitiond-engine-blue.sock", *given).communicate(timeout=60)[0]
    assert "tried 13" in told, told
    assert "reached" not in told, told
    # The same program as the default group's user does reach its own, so the attempts do work.
    beside = run("runuser", "-u", "partitiond-engine", "--", sys.executable, "-c", code, *given)
    assert "reached prlimit" in beside, beside
    assert "reached cache" in beside, beside
    assert neighbour.poll() is None, "the neighbour is gone"
    neighbour.kill()
    partitiond("models", "update", "checked", "--isolation-group", "none", "--no-wait")
    default = pwd.getpwnam("partitiond-engine").pw_uid
    wait_for("an engine of the default group", lambda: _engine_of(default))
    return (
        f"user {user.pw_uid}, {told.strip()}, reached 0; its own reaches {beside.count('reached')}"
    )


def _engine_of(uid: int) -> int:
    """The engine's process, once its replica serves and is this user's; else 0."""
    replica = serving()
    try:
        pid = main_process(replica.pid) if replica and replica.pid else 0
        return pid if pid and Path(f"/proc/{pid}").stat().st_uid == uid else 0
    except (OSError, StopIteration):
        return 0


def in_a_sandbox(program: str, launcher: str, *words: str) -> "subprocess.Popen[str]":
    """Start a Python program in an engine's place, as the daemon starts engines at that socket."""
    code = (
        "import json, os, socket, sys\n"
        "read, write = os.pipe()\n"
        "c = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1])\n"
        "socket.send_fds(c, [sys.argv[2].encode() + b'\\n'], [write]); os.close(write)\n"
        "while data := os.read(read, 65536): print(data.decode(), end='', flush=True)\n"
    )
    argv = [sys.executable, "-I", "-c", program, *words]
    asked_for = json.dumps({"version": 1, "argv": argv, "env": {}, "cores": [0]})
    return subprocess.Popen(
        ["runuser", "-u", "partitiond", "--", sys.executable, "-c", code, launcher, asked_for],
        stdout=subprocess.PIPE,
        text=True,
    )


def reload_takes_settings() -> str:
    """SIGHUP applies the settings that may change, names the others, and keeps the process."""
    pid = main_pid()
    settings(CONFIG + "[planner]\nseed = 7\n[control]\nport = 9999\n")
    run("systemctl", "reload", UNIT)
    wait_for("the reload", lambda: "planner.seed" in run("journalctl", "-u", UNIT, "-o", "cat"))
    log = run("journalctl", "-u", UNIT, "-o", "cat")
    assert "a restart is needed for control.port" in log, log[-500:]
    settings("[planner]\nsead = 7\n")
    run("systemctl", "reload", UNIT)
    wait_for("the refusal", lambda: "not re-read" in run("journalctl", "-u", UNIT, "-o", "cat"))
    settings(CONFIG)
    assert (main_pid(), shown("ActiveState")) == (pid, "active")
    return "wrong settings are refused and the old ones stay"


def a_killed_or_hung_daemon_is_replaced() -> str:
    """After SIGKILL, and after SIGSTOP by the watchdog, systemd starts another daemon, which adopts
    the engine."""
    old = engine()
    drop = Path("/run/systemd/system/partitiond.service.d/watchdog.conf")
    drop.parent.mkdir(parents=True, exist_ok=True)
    drop.write_text("[Service]\nWatchdogSec=3s\nTimeoutAbortSec=2s\n")
    run("systemctl", "daemon-reload")  # for the next daemon
    for number in (signal.SIGKILL, signal.SIGSTOP):
        before = main_pid()
        os.kill(before, number)
        wait_for("the next daemon", lambda former=before: main_pid() not in (0, former))
        wait_for("it to be active", lambda: shown("ActiveState") == "active")
        assert engine() == old
    drop.unlink()
    run("systemctl", "daemon-reload")
    return f"engine {old} serves on"


def helper_answers_its_user_only() -> str:
    """The socket starts the MIG helper as root; the helper refuses users without permission."""
    for unit in ("partitiond-mig.socket", "partitiond-mig.service"):
        text = (Path("deploy/systemd") / unit).read_text()
        text = text.replace("/opt/partitiond/bin", str(BIN))
        # The interpreter of a checkout may lie in a home folder; setup would refuse that.
        text = text.replace("ProtectHome=yes", "ProtectHome=read-only")
        Path("/run/systemd/system", unit).write_text(text)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "partitiond-mig.socket")
    path = "/run/partitiond-mig/helper.sock"
    code = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(20); "
        f"s.connect('{path}'); s.sendall(b'not a request\\n'); print(s.recv(4000).decode())"
    )
    answer = run("runuser", "-u", "partitiond", "--", sys.executable, "-c", code)
    assert answer.strip(), "no answer"
    assert run("systemctl", "is-active", "partitiond-mig.service").strip() == "active"
    refused = subprocess.run(
        ["runuser", "-u", "nobody", "--", sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "PermissionError" in refused.stderr, refused.stderr[-300:]
    run("systemctl", "stop", "partitiond-mig.socket", "partitiond-mig.service")
    return answer.strip()[:100]


def mps_runs_as_the_engines_user() -> str:
    """An MPS daemon and its clients are the engines' user's: started, adopted, broken; the next
    check ends them."""
    gpus = Path("/srv/gpus")
    partitiond("tools", "simulate", "create", "a100-80gb-x8", "--out", str(gpus))
    _install_mps_units(gpus)
    partitiond("models", "remove", "checked")
    settings(MPS_CONFIG)
    run("systemctl", "restart", UNIT)
    wait_for("the daemon", ready)
    fleet = Path("/out/mps.toml")
    fleet.write_text(MPS_FLEET)
    partitiond("up", "-f", str(fleet))
    first = _under_mps()
    asked("shared")
    run("systemctl", "restart", UNIT)
    assert _under_mps() == first, "a restart changes nothing"
    uuid = json.loads((_mps_folder() / "daemon.json").read_text())["uuid"]
    words = ("tools", "simulate", "break", str(gpus), "mps", "fault", "--gpu", uuid)
    run(str(BIN / "partitiond"), *words, env={"PARTITIOND_RUN_DIR": "/run/partitiond"})
    second = _under_mps(other_than=first["engines"])
    os.kill(min(second["daemon"]), signal.SIGKILL)
    third = _under_mps(other_than=second["engines"])
    assert not third["daemon"] & second["daemon"]
    hostile = a_hostile_engine_reaches_nothing(
        "/run/partitiond-mps.sock", ("shared memory of others",)
    )
    return f"daemons {sorted(first['daemon'])}, {sorted(third['daemon'])}; {hostile}"


MPS_CONFIG = """\
[gpu]
enabled = true
simulated_host = "/srv/gpus"
[cpu]
enabled = false
[planner]
objective = "min-devices"
[profiling]
min_window_seconds = 0.2
max_window_seconds = 0.5
max_batch = 4
"""
MPS_FLEET = FLEET.replace('"checked"', '"shared"').replace(
    "max_replicas = 1", "min_replicas = 2\nmax_replicas = 2"
)


def _install_mps_units(gpus: Path) -> None:
    """Install what setup does where there are GPUs. Engines write to the simulated host's file."""
    from partitiond.cli.setup import mps_units
    from partitiond.cli.setup.plan import mount_unit

    units = Path("/run/systemd/system")
    for name in (mps_units.MPS_SOCKET, mps_units.MPS_SERVICE):
        engines = Path("/etc/systemd/system", name.replace("mps", "engine")).read_text()
        (units / name).write_text(mps_units.mps_unit(name, engines))
    mount = Path("deploy/systemd/partitiond-mps.mount").read_text()
    (units / mount_unit(mps_units.MPS_FOLDER)).write_text(mount)
    for unit in (UNIT, "partitiond-engine@.service", "partitiond-mps@.service"):
        drop = Path(f"/run/systemd/system/{unit}.d/simulated.conf")
        drop.parent.mkdir(parents=True, exist_ok=True)
        drop.write_text(f"[Service]\nReadWritePaths={gpus}\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", mps_units.MPS_SOCKET)


def _mps_folder() -> Path:
    return next(Path("/run/partitiond/mps").glob("*/command.json")).parent


def _mps_pids() -> set[int]:
    """All MPS processes of this host, by their command lines."""
    found = set()
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].startswith(b"nvidia-cuda-mps-"):
            found.add(int(line.parent.name))
    return found


def _engines() -> set[int]:
    """The engines' own processes whose replicas serve."""
    pids = [view.pid for view in all_serving() if view.pid is not None]
    try:
        return {main_process(pid) for pid in pids}
    except (OSError, StopIteration):  # one ends meanwhile
        return set()


def _under_mps(other_than: frozenset[int] | set[int] = frozenset()) -> dict[str, set[int]]:
    """Two engines that are clients of one MPS daemon, all of them the engines' user's."""
    engines = wait_for(
        "two engines",
        lambda: found if len(found := _engines()) == 2 and not found & other_than else None,
    )
    daemon, user = _mps_pids(), pwd.getpwnam("partitiond-engine").pw_uid
    assert len(daemon) == 2, f"a control daemon and a server: {daemon}"
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in engines | daemon} == {user}
    units = {pid: cgroup(pid) for pid in engines | daemon}
    assert all("/partitiond-mps@" in unit for unit in units.values()), units
    assert len(set(units.values())) == 3, f"a unit for the daemon, and one for each engine: {units}"
    named = json.loads((_mps_folder() / "process.json").read_text())["cgroup"]
    assert {f"/sys/fs/cgroup{units[pid]}" for pid in daemon} == {named}
    clients = _keeper_says(f"get_client_list {max(daemon)}")
    assert {int(pid) for pid in clients.split()} == engines, clients
    host = Path("/proc/self/ns/net").readlink()
    nets = {Path(f"/proc/{pid}/ns/net").readlink() for pid in engines | daemon} - {host}
    assert len(nets) == 3, "each has a network of its own"
    seen = {Path(f"/proc/{pid}/root/dev/shm").stat().st_dev for pid in engines | daemon}
    assert seen == {Path("/run/partitiond-mps").stat().st_dev}, "and one shared memory"
    run("runuser", "-u", "partitiond", "--", "test", "!", "-x", "/run/partitiond-mps")
    return {"engines": engines, "daemon": daemon}


def _keeper_says(command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(_mps_folder() / "engine.sock"))
        question = {"version": 1, "commands": [command], "seconds": 10}
        connection.sendall(json.dumps(question).encode() + b"\n")
        said: str = json.loads(connection.makefile().read())["said"]
        return said


def undo_leaves_nothing() -> str:
    """`setup --undo --apply --purge` leaves no engine, unit, user or folder."""
    old = engine()
    partitiond("setup", "--undo", "--apply", "--purge", code=None)
    wait_for("the engine to be gone", lambda: not Path(f"/proc/{old}").exists())
    assert not _mps_pids()
    left = [p for p in Path("/etc").rglob("*partitiond*") if p.suffix != ".toml"]
    left = [p for p in left if p != CONFIG_FILE.parent]
    assert not left, left
    assert not STATE.exists(), STATE
    try:
        pwd.getpwnam("partitiond")
    except KeyError:
        return "no user, no unit, no data"
    raise AssertionError("the user is left")


CHECKS = (
    setup_installs_and_starts,
    a_model_serves,
    engine_is_a_user_of_its_own,
    a_hostile_engine_reaches_nothing,
    an_engine_ends_with_its_supervisor,
    engines_of_both_users_are_adopted,
    groups_are_kept_apart,
    reload_takes_settings,
    a_killed_or_hung_daemon_is_replaced,
    helper_answers_its_user_only,
    mps_runs_as_the_engines_user,
    *several_hosts.CHECKS,
    undo_leaves_nothing,
)


def _words(check: Callable[[], str]) -> str:
    return check.__name__.replace("_", " ")


def main() -> None:
    """Run all checks, or those named after the folder; the first failure ends the run."""
    named = sys.argv[2:]
    for check in CHECKS if not named else [c for c in CHECKS if c.__name__ in named]:
        started = time.monotonic()
        try:
            note = check()
        except (AssertionError, OSError, subprocess.SubprocessError, ValueError):
            print(run("journalctl", "-n", "60", "-o", "short-monotonic", code=None))
            units = (UNIT, "partitiond-mig.service", several_hosts.RAY_UNIT)
            print(run("systemctl", "status", "--no-pager", *units, code=None))
            print(f"FAILED  {_words(check)}\n{traceback.format_exc()}")
            sys.exit(1)
        print(f"ok  {_words(check)} ({time.monotonic() - started:.1f} s): {note}", flush=True)
    if not several_hosts.RAY:
        print("skip  several hosts: `partitiond setup engine install ray` finds no Ray here")
    print("all checks hold", flush=True)


if __name__ == "__main__":
    main()
