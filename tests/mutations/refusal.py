"""Runs tests on a wrong version, and says which test refused it.

This process imports what the tests need of others, and nothing of the product. For each group of
tests it forks; the child imports the product, of which one module comes from the wrong source. So
the tree stays as it is, and no test waits for imports. Tests that start processes of the product
start it as it is: `copied` writes the wrong source into a copy of the tree and runs pytest there.
"""

import contextlib
import dataclasses
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

import pytest

from tests.mutations.apart import can_be_apart, ended, start_apart
from tests.mutations.asked import groups
from tests.mutations.operators import Mutation

ROOT: Final = Path(__file__).resolve().parents[2]
OWN: Final = frozenset({"partitiond", "tests", "loadgen", "bench", "docs", "deploy", "examples"})
ENGINES: Final = frozenset({"vllm", "torch", "ray", "transformers"})
"""Take long to import, or start something when they are."""
LEFT_OUT: Final = shutil.ignore_patterns(".*", "__pycache__", "*.so", "build", "dist")
"""Compiled modules among them: they would run instead of the wrong source."""
MARKERS: Final = "not full and not soak and not quarantine and not engine and not gpu"
BUDGET_SECONDS: Final = 90.0
"""CPU time of the tests that are asked about one wrong version."""
TIMES: Final = 2.0
"""A wrong version may make tests compute for ever. It counts as refused where they are through in
less than this part of the time on the tree as it is.
"""
TEST_SECONDS: Final = 90
"""For each test: a wrong version may make it wait for ever."""
MOST_SECONDS: Final = 1800.0
"""For hangs of what is no test."""
NO_TESTS: Final = 5
"""pytest's status."""
MOST_BYTES: Final = 8 << 30
"""Of memory: a wrong version may ask for any."""
TOLD: Final = re.compile(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", re.MULTILINE)
PYTEST: Final = (
    "-q", "-p", "no:cacheprovider", "-m", MARKERS, f"--timeout={TEST_SECONDS}",
    "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip


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
        self._known: dict[tuple[str, ...], _Ran] = {}
        self._bad: set[str] = set()
        for name in _foreign():
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        with (
            tempfile.TemporaryDirectory() as empty,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            pytest.main(["-q", "-p", "no:cacheprovider", f"--rootdir={empty}", empty])
        gc.freeze()
        assert not any(name.split(".")[0] == "partitiond" for name in sys.modules)
        self._is_apart = can_be_apart()

    def of(self, mutation: Mutation) -> dict[str, str]:
        """Ask the tests, nearest first: `result` is refused (`by` what), survived or unasked.

        A test that refuses is asked again, alone: about the wrong version, which it may have
        refused by chance, and about the right one, which it may refuse, too.
        """
        # A wrong version of a compiled module counts only where none of them is compiled.
        fresh = b"mypy_extensions" in (ROOT / mutation.file).read_bytes()
        answer = {"id": mutation.id, "result": "unasked"}
        if not self._is_apart and b"kill" in (ROOT / mutation.file).read_bytes():
            return answer | {"by": "nobody: it might end processes of others"}
        left = self._budget
        waiting = [list(self._tests)] if self._tests else groups(mutation.file, ROOT)
        while waiting and left > 1:
            asked = [*waiting[0], *(f"--deselect={name}" for name in sorted(self._bad))]
            ran = self._run(["-x", *asked], mutation, left, fresh)
            left -= ran.cpu
            if ran.status in (0, NO_TESTS):
                answer["result"] = "survived" if ran.status == 0 else answer["result"]
                waiting.pop(0)
            elif ran.failing:
                right = self._right(ran.failing, MOST_SECONDS, fresh)
                if right.status != 0:
                    print(f"# as it is, refused by {' '.join(ran.failing)}", flush=True)
                    if self._bad.issuperset(ran.failing):
                        break
                    self._bad.update(ran.failing)
                    continue
                again = {}
                if (
                    not ran.has_waited
                    and not self._run(ran.failing, mutation, MOST_SECONDS, fresh).status
                ):
                    again = {"again": "accepted alone"}
                return answer | {"result": "refused", "by": " ".join(ran.failing)} | again
            else:
                right = self._right(asked, ran.cpu if ran.is_late else MOST_SECONDS, fresh)
                if right.status == 0 and (not ran.is_late or TIMES * right.cpu < ran.cpu):
                    by = "out of time" if ran.is_late else f"status {ran.status}"
                    return answer | {"result": "refused", "by": f"{by} of {waiting[0][0]}"}
                answer["result"] = "survived"
                break
        return answer

    def _right(self, asked: Sequence[str], cpu: float, fresh: bool) -> "_Ran":
        """What tests say of the tree as it is."""
        key = (*asked, str(fresh), str(cpu == MOST_SECONDS))
        if key not in self._known:
            self._known[key] = self._run(asked, None, cpu, fresh)
        return self._known[key]

    def _run(
        self, arguments: Sequence[str], mutation: Mutation | None, cpu: float, fresh: bool
    ) -> "_Ran":
        right = (ROOT / mutation.file).read_bytes() if mutation else b""
        source = mutation.applied(right) if mutation else None
        with (
            tempfile.TemporaryDirectory(prefix="pd-m", ignore_cleanup_errors=True) as name,
            self._put_in(mutation, source),
        ):
            folder = Path(name)
            child = start_apart(
                lambda: self._child(folder, arguments, mutation, source, cpu, fresh)
            )
            waiting = os.pidfd_open(child)
            in_time = select.select([waiting], [], [], MOST_SECONDS)[0]
            os.close(waiting)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
            log = (folder / "log").read_text(errors="replace")
            # A case whose name was cut off is found by its function's.
            failing = [n if n.endswith("]") else n.partition("[")[0] for n in TOLD.findall(log)]
        return _Ran(
            ended(status),
            used.ru_utime + used.ru_stime if in_time else MOST_SECONDS,
            list(dict.fromkeys(failing)),
            "from pytest-timeout" in log,
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
    ) -> int:
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
        for number, opened in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
            os.dup2(opened, number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu) + 1, int(cpu) + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
        os.environ.pop("PARTITIOND_TEST_NATIVE", None)
        if fresh:
            os.environ["PARTITIOND_NATIVE_DIR"] = str(folder / "native")
        asked = [*PYTEST, f"--basetemp={folder / 't'}", *arguments]
        os.chdir(self._tree)
        if self._copy is not None:
            os.environ["PYTHONPATH"] = str(self._tree)
            os.execv(sys.executable, [sys.executable, "-m", "pytest", *asked])
        if mutation is not None and source is not None:
            sys.meta_path.insert(0, _Wrong(mutation.file, source))
        code = int(pytest.main(asked))
        sys.stdout.flush()
        return code


def _foreign() -> set[str]:
    """Modules of others that the product and its tests import."""
    names: set[str] = set()
    for path in (*(ROOT / "partitiond").rglob("*.py"), *(ROOT / "tests").rglob("*.py")):
        names.update(re.findall(r"^(?:import|from) ([\w.]+)", path.read_text("utf-8"), re.M))
    return {name for name in names if name.split(".")[0] not in OWN | ENGINES}


@dataclasses.dataclass(frozen=True, slots=True)
class _Ran:
    """How a run of tests ended."""

    status: int
    cpu: float
    failing: Sequence[str]
    has_waited: bool

    @property
    def is_late(self) -> bool:
        return self.status in (-signal.SIGKILL, -signal.SIGXCPU)


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
