"""Runs tests on a wrong version, and says which test refused it.

This process imports what the tests need of others, and nothing of the product. For each group of
tests it forks; the child imports the product, of which one module comes from the wrong source. So
the tree stays as it is, and no test waits for imports. Tests that start processes of the product
start it as it is: `copied` writes the wrong source into a copy of the tree and runs pytest there.
"""

import contextlib
import ctypes
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

import psutil
import pytest

from tests.mutations.asked import groups
from tests.mutations.operators import Mutation

ROOT: Final = Path(__file__).resolve().parents[2]
IMPORTED_BEFORE: Final = (
    "hypothesis.strategies", "numba", "numpy", "httpx", "pydantic", "sqlmodel", "fastapi", "typer",
    "fastapi.testclient", "uvicorn", "uvloop", "msgspec", "httptools", "prometheus_client", "rich",
    "psutil", "ortools.sat.python.cp_model", "alembic.command", "openai",
)  # fmt: skip
LEFT_OUT: Final = shutil.ignore_patterns(".*", "__pycache__", "*.so", "build", "dist")
"""Compiled modules among them: they would run instead of the wrong source."""
MARKERS: Final = "not full and not soak and not quarantine and not engine and not gpu"
BUDGET_SECONDS: Final = 90.0
"""CPU time of the tests, on the tree as it is, that are asked for one wrong version."""
TIMES: Final = 4.0
LEAST_CPU_SECONDS: Final = 20.0
LEAST_SECONDS: Final = 60.0
"""A wrong version may make tests wait or compute for ever. It counts as refused once they took so
many times as long as on the tree as it is, and no less than that."""
MOST_SECONDS: Final = 600.0
"""Of one file on the tree as it is."""
MOST_BYTES: Final = 8 << 30
"""Of memory: a wrong version may ask for any."""
SUBREAPER: Final = 36
"""Linux's PR_SET_CHILD_SUBREAPER: what a test leaves behind becomes a child of this process."""
TOLD: Final = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)
PYTEST: Final = ("-q", "-p", "no:cacheprovider", "-m", MARKERS, "-W",
                 "ignore::pytest.PytestAssertRewriteWarning", "-n0")  # fmt: skip


class Refusal:
    """Asks tests."""

    def __init__(
        self, tests: Sequence[str] = (), *, copied: bool = False, budget: float = BUDGET_SECONDS
    ) -> None:
        self._tests = tests
        self._budget = budget
        self._copy = tempfile.TemporaryDirectory(prefix="pd-copy-") if copied else None
        self._tree = ROOT
        if self._copy is not None:
            self._tree = Path(self._copy.name) / "tree"
            shutil.copytree(ROOT, self._tree, ignore=LEFT_OUT)
        self._known: dict[tuple[str, bool], _Usual] = {}
        self._kept = Path(tempfile.gettempdir()) / f"pd-usual-{os.getuid()}.json"
        for name in IMPORTED_BEFORE:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        with (
            tempfile.TemporaryDirectory() as empty,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            pytest.main(["-q", "-p", "no:cacheprovider", f"--rootdir={empty}", empty])
        gc.freeze()
        assert not any(name.split(".")[0] == "partitiond" for name in sys.modules)
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)

    def of(self, mutation: Mutation) -> dict[str, str]:
        """Ask the tests, nearest first: `result` is refused (`by` what), survived or unasked.

        Who refused is asked again, alone: a test that then accepts may have failed by chance.
        """
        fresh = b"numba" in (ROOT / mutation.file).read_bytes()
        left = self._budget
        answer = {"id": mutation.id, "result": "unasked"}
        for group in [list(self._tests)] if self._tests else groups(mutation.file, ROOT):
            files, failing, seconds, cpu = [], [], 0.0, 0.0
            for file in group:
                usual = self._usual(file, fresh) if left > 0 else None
                if usual is None or usual.cpu > left or usual.status not in (0, 1):
                    continue
                left -= usual.cpu
                files.append(file)
                failing += [f"--deselect={name}" for name in usual.failing]
                seconds += usual.seconds
                cpu += usual.cpu
            if not files:
                continue
            ran = self._run(
                ["-x", *files, *failing],
                mutation,
                max(LEAST_SECONDS, TIMES * seconds),
                max(LEAST_CPU_SECONDS, TIMES * cpu),
                fresh,
            )
            if ran.status not in (0, 5):
                answer |= {"result": "refused", "by": " ".join(ran.failing) or ran.said}
                if ran.failing:
                    alone = self._run(ran.failing, mutation, MOST_SECONDS, MOST_SECONDS, fresh)
                    if alone.status == 0:
                        answer["again"] = "accepted alone"
                return answer
            answer["result"] = "survived"
        return answer

    def _usual(self, file: str, fresh: bool) -> "_Usual":
        """What a test file does on the tree as it is; kept, unless something in it fails."""
        if (file, fresh) in self._known:
            return self._known[file, fresh]
        kept = json.loads(self._kept.read_text()) if self._kept.exists() else {}
        status = (self._tree / file).stat()
        key = f"{ROOT / file} {status.st_mtime_ns if not self._copy else 'copied'} {fresh}"
        if key in kept:
            usual = _Usual(*kept[key])
        else:
            usual = self._run([file], None, MOST_SECONDS, MOST_SECONDS, fresh)
            if usual.status == 0:
                kept[key] = [usual.status, usual.seconds, usual.cpu]
                fresh_file = self._kept.with_suffix(f".{os.getpid()}")
                fresh_file.write_text(json.dumps(kept))
                fresh_file.replace(self._kept)
            elif usual.status != 5:
                print(f"# as it is, {usual.said}: {file} {' '.join(usual.failing)}", flush=True)
        self._known[file, fresh] = usual
        return usual

    def _run(
        self,
        arguments: Sequence[str],
        mutation: Mutation | None,
        seconds: float,
        cpu: float,
        fresh: bool,
    ) -> "_Usual":
        with tempfile.TemporaryDirectory(prefix="pd-m", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            began = time.monotonic()
            source = None
            if mutation is not None:
                source = mutation.applied((ROOT / mutation.file).read_bytes())
            with self._put_in(mutation, source):
                child = os.fork()
                if child == 0:
                    self._child(folder, arguments, mutation, source, cpu, fresh)
                waiting = os.pidfd_open(child)
                in_time = select.select([waiting], [], [], seconds)[0]
                os.close(waiting)
                if not in_time:
                    os.kill(child, signal.SIGKILL)
                _, status, used = os.wait4(child, 0)
                _end_children()
            log = (folder / "log").read_text(errors="replace")
            code = os.waitstatus_to_exitcode(status)
            return _Usual(
                code,
                time.monotonic() - began,
                used.ru_utime + used.ru_stime,
                list(dict.fromkeys(TOLD.findall(log))),
                "out of time" if code in (-signal.SIGKILL, -signal.SIGXCPU) else f"status {code}",
            )

    @contextlib.contextmanager
    def _put_in(self, mutation: Mutation | None, source: bytes | None) -> Iterator[None]:
        """The wrong source in the copy of the tree, if there is one."""
        if self._copy is None or mutation is None or source is None:
            yield
            return
        path = self._tree / mutation.file
        shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
        path.write_bytes(source)
        try:
            yield
        finally:
            shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
            path.write_bytes((ROOT / mutation.file).read_bytes())

    def _child(  # noqa: PLR0917
        self,
        folder: Path,
        arguments: Sequence[str],
        mutation: Mutation | None,
        source: bytes | None,
        cpu: float,
        fresh: bool,
    ) -> None:
        code = 70
        try:
            os.setsid()
            log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
            for number, opened in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
                os.dup2(opened, number)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            resource.setrlimit(resource.RLIMIT_CPU, (int(cpu), int(cpu) + 5))
            resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
            os.environ.pop("PARTITIOND_TEST_NATIVE", None)
            if fresh:
                os.environ["NUMBA_CACHE_DIR"] = str(folder / "numba")
                sys.modules["numba"].config.reload_config()
            asked = [*PYTEST, f"--basetemp={folder / 't'}", *arguments]
            os.chdir(self._tree)
            if self._copy is not None:
                os.environ["PYTHONPATH"] = str(self._tree)
                os.execv(sys.executable, [sys.executable, "-m", "pytest", *asked])
            if mutation is not None and source is not None:
                sys.meta_path.insert(0, _Wrong(mutation.file, source))
            code = int(pytest.main(asked))
            sys.stdout.flush()
        finally:
            os._exit(code)


class _Usual:
    """How a run of tests ended."""

    def __init__(
        self, status: int, seconds: float, cpu: float, failing: Sequence[str] = (), said: str = ""
    ) -> None:
        self.status = status
        self.seconds = seconds
        self.cpu = cpu
        self.failing = failing
        self.said = said


class _Source(importlib.machinery.SourceFileLoader):
    """Loads a module from a source that is not the file's."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        super().__init__(name, str(path))
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)


class _Wrong(importlib.abc.MetaPathFinder):
    """Finds one module, whose source is wrong."""

    def __init__(self, file: str, source: bytes) -> None:
        self._name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self._loader = _Source(self._name, ROOT / file, source)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(
            fullname, self._loader.path, loader=self._loader
        )


def _end_children() -> None:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
