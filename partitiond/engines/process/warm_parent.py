"""Forks engines whose imports are done: `PYTHON warm_parent.py SHIM MODULE...`.

Run by the engine's interpreter. It imports the modules once (10 s of CPU for vLLM), and then waits
at its standard input, one end of a socket pair that only the daemon holds. For each run folder that
comes it forks twice:

- the child leads a session of its own, forks the engine, and becomes the engine's shim by exec: the
  same program, with the same records and the same hold on its engine, as in a start without this
  process;
- the grandchild takes its environment, cores and arguments from command.json, and runs the module
  that the command names.

So an engine hangs on its shim alone. This process holds no file, token or device, has one thread,
and ends when the daemon does; whoever it has forked lives on.
"""

# pathlib is what this program would import besides.
# ruff: noqa: PTH118

import atexit
import contextlib
import functools
import gc
import importlib
import importlib.util
import json
import multiprocessing
import os
import random
import runpy
import signal
import socket
import sys
import tempfile
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, NoReturn

IMPORTED = "imported"
IMPORT_SECONDS = 300
"""Longest time for the imports; a process that hangs in them would outlive its daemon."""
EXIT_SECONDS = 10
"""Longest time that an engine which ended may take to go. Chosen: its last spans take less."""


def load(path: str) -> "ModuleType":
    """Import a module by the path of its file, whose folder no other import shall see."""
    spec = importlib.util.spec_from_file_location("shim", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def import_all(names: list[str]) -> None:
    """Import what is there; an engine imports by itself what is not."""
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def import_nothing_again() -> None:
    """Have vLLM fork its engine core, as it does on GPUs: on CPUs it spawns one. And have it look
    at a model's class here, the first time on a host: it has another process do so, for CUDA's
    sake. Both would import all again.
    """
    context = multiprocessing.get_context("fork")
    for name, module in list(sys.modules.items()):
        if name.startswith("vllm.") and hasattr(module, "get_mp_context"):
            setattr(module, "get_mp_context", lambda: context)  # noqa: B010 - no module of ours
        if name == "vllm.model_executor.models.registry":
            setattr(module, "_run_in_subprocess", lambda look: look())  # noqa: B010


def note_files() -> None:
    """Write down the files that engines of this process have, and the folders of packages."""
    files = [vars(module).get("__file__") for module in list(sys.modules.values())]
    packages = [folder for folder in sys.path if folder.endswith("-packages")]
    with open(IMPORTED, "w", encoding="utf-8", errors="surrogateescape") as told:  # noqa: PTH123
        told.write("\n".join(filter(None, [*files, *packages])))


def begin(shim: "Any", asked: "dict[str, Any]", ready: int, lifeline: int = -1) -> "NoReturn":
    """In the forked child: fork the engine, and become its shim. Never returns.

    Args:
        ready: where the shim says that the engine runs.
        lifeline: whose end the shim ends the engine with; -1 for none.
    """
    try:
        # Until it is the shim, it dies with the warm parent: nobody else would find it.
        shim.prctl(shim.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.umask(0o077)
        shim.prctl(shim.PR_SET_CHILD_SUBREAPER, 1)
        run_dir = asked["run_dir"]
        command = json.loads(shim.read_text(os.path.join(run_dir, "command.json")))
        shim.write_identity(run_dir, 0)
        os.sched_setaffinity(0, command["cores"])
        output, engine_output = os.pipe()
        gate, opened = os.pipe()
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            become_engine(shim, command, engine_output, supervisor, gate)
        passed = (output, ready, opened, lifeline)
        for descriptor in passed:
            if descriptor >= 0:
                os.set_inheritable(descriptor, True)
        argv = [*asked["argv"], "--engine", str(pid), *map(str, passed)]
        shim.prctl(shim.PR_SET_PDEATHSIG, 0)
        os.execve(argv[0], argv, asked["env"])  # noqa: S606 - exec is the point
    except (OSError, ValueError, KeyError) as error:
        shim.report(ready, error)
    finally:
        os._exit(1)


def as_at_begin() -> None:
    """Handle signals as an interpreter does that begins: a client that leaves kills no engine."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def become_engine(
    shim: "Any", command: "dict[str, Any]", output: int, supervisor: int, gate: int
) -> "NoReturn":
    """In the grandchild: run the module that the command names. Never returns."""
    code = 1
    try:
        shim.depend_on(supervisor, command["cwd"], output)
        as_at_begin()
        os.read(gate, 2)  # what it forks and keeps is its cgroup's
        # Intel's OpenMP gives each child the cores that it began with, those of the parent.
        stay = functools.partial(os.sched_setaffinity, 0, command["cores"])
        stay()
        os.register_at_fork(after_in_child=stay)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        os.environ.update(command["env"])
        tempfile.tempdir = None
        # Children of one process must not draw the same numbers.
        random.seed()
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        if "torch" in sys.modules:  # it has read the threads of another environment
            sys.modules["torch"].set_num_threads(int(command["env"]["OMP_NUM_THREADS"]))
        module, *words = command["argv"][command["argv"].index("-m") + 1 :]
        sys.argv = [module, *words]
        if "setproctitle" in sys.modules:
            sys.modules["setproctitle"].setproctitle(" ".join(command["argv"]))
        gc.enable()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - whatever ends an engine is in its log
        sys.excepthook(*sys.exc_info())
    finally:
        # As an interpreter ends: spans of its last requests are sent only there, but not for ever.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(EXIT_SECONDS)
        join = getattr(threading, "_shutdown")  # noqa: B009 - no type checker knows it
        for last in (join, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
            with contextlib.suppress(BaseException):
                last()
        os._exit(code)


def main() -> None:
    """Import, and fork an engine for each run folder that comes, until the daemon ends."""
    sys.path.pop(0)  # this file's folder
    shim = load(sys.argv[1])
    if os.fork():
        os._exit(0)  # nobody has to wait for it
    os.setsid()
    connection = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    connection.send(str(os.getpid()).encode())
    signal.alarm(IMPORT_SECONDS)
    import_all(sys.argv[2:])
    if "setproctitle" in sys.modules:
        sys.modules[
            "setproctitle"
        ].getproctitle()  # it looks for the title's place once, by environ
    import_nothing_again()
    signal.alarm(0)
    threads = os.listdir("/proc/self/task")  # noqa: PTH208
    if len(threads) > 1:
        print(f"{len(threads)} threads after the imports: nothing is forked", file=sys.stderr)
        return
    note_files()
    gc.disable()  # a collection would write to every page that engines share
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    connection.send(b"ready")
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, 65536, 2)
        if not data:
            os._exit(0)  # at once: there is nothing to tidy up
        if os.fork() == 0:
            connection.close()
            begin(shim, json.loads(data), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    main()
