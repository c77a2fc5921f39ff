"""The compiled hot path behaves the same, and is never older than its sources."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from partitiond import native
from tests.run import TIERS

ROOT = Path(__file__).parent.parent.parent
BUILD_SECONDS = 600
LEFT_OUT = {
    # Their proxies are processes of their own, which run compiled in any case.
    "test_native.py", "test_supervisor.py", "test_workers.py", "test_tls.py", "test_files.py",
    # It inherits from classes that are compiled, which only compiled classes can.
    "test_workers_ledger.py",
}  # fmt: skip
NOT_REPEATED = (
    "not (in_any_phase and not no_length or does_not_swallow or one_request_at_a_time or "
    "of_one_key_alone or settles_near or backlogged_keys or tell_at_once or each_third_request or "
    "accepts_no_keys or what_it_has_room_for)"
)
"""Half of the time, and by coverage no line that the other tests do not reach."""


def run(
    *words: str, environment: dict[str, str] | None = None, seconds: float = 60
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT, env={**os.environ, **(environment or {})}, text=True, timeout=seconds,
        capture_output=True, check=False,
    )  # fmt: skip


def where(module: str, environment: dict[str, str] | None = None) -> str:
    """The file that a proxy would load the module from."""
    code = (
        "from partitiond import native; native.activate(native.PROXY); "
        f"import {module}; print({module}.__file__)"
    )
    done = run("-c", code, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def compiled() -> None:
    if (reason := native.problem()) is not None:
        pytest.skip(f"nothing can be compiled here: {reason}")
    done = run("-m", "partitiond.native", seconds=BUILD_SECONDS)
    assert done.returncode == 0, done.stderr


def test_without_a_build_the_sources_run(tmp_path: Path) -> None:
    found = where("partitiond.proxy.edge.exchange", {"PARTITIOND_NATIVE_DIR": str(tmp_path)})
    assert found.endswith("exchange.py")


def test_a_build_of_other_sources_is_never_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.FOLDER, str(tmp_path))
    of_these = native.folder(native.PROXY)
    source = tmp_path / "package"
    for name in native.PROXY:
        path = source / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((ROOT / "partitiond" / f"{name}.py").read_bytes())
    monkeypatch.setattr(native, "_PACKAGE", source)
    assert native.folder(native.PROXY) == of_these
    with (source / "proxy" / "edge" / "exchange.py").open("a") as file:
        file.write("# changed\n")
    assert native.folder(native.PROXY) != of_these


def made(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build of the planner's loops as the compiler would leave it."""
    monkeypatch.setenv(native.FOLDER, str(cache))
    monkeypatch.setattr("partitiond.native.subprocess.run", _compiled)
    return native.build(native.PLANNER)


def _compiled(_words: object, *, cwd: Path, **_more: object) -> "subprocess.CompletedProcess[str]":
    for name in native.PLANNER:
        (cwd / "partitiond" / f"{name}.cpython.so").write_text("code")
    return subprocess.CompletedProcess([], 0, "", "")


def test_a_damaged_build_is_not_used_and_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = made(tmp_path, monkeypatch)
    assert native.is_built(native.PLANNER)
    first, second = sorted(built.rglob("*.so"))[:2]
    before = list(sys.path)
    for harm in (
        lambda: first.write_text("co"),
        second.unlink,
        (built / "complete").unlink,
        lambda: (built / "complete").write_bytes(b"\xff"),
    ):
        harm()
        assert not native.activate(native.PLANNER)
        assert native.build(native.PLANNER) == built
        assert native.is_built(native.PLANNER)
    assert sys.path == before
    assert [each.name for each in tmp_path.iterdir()] == [built.name], "nothing is left beside it"


@pytest.mark.full
@pytest.mark.timeout(2 * BUILD_SECONDS)
def test_what_is_built_is_used_unless_switched_off() -> None:
    compiled()
    assert where("partitiond.proxy.edge.exchange", {"PARTITIOND_NATIVE": ""}).endswith(".so")
    switched_off = {"PARTITIOND_NATIVE": "0"}
    assert where("partitiond.proxy.edge.exchange", switched_off).endswith(".py")
    assert where("partitiond.planner.kernels.anneal", switched_off).endswith(".so")


@pytest.mark.full
def test_a_search_takes_the_same_steps_compiled_or_not(tmp_path: Path) -> None:
    code = (
        "from bench.planner.shipped import request; "
        "from partitiond.planner.bounds.prices import usual_prices; "
        "from partitiond.planner.model.instance import build_instance; "
        "from partitiond.planner.model.sites import build_sites; "
        "from partitiond.planner.search.improve import Improver; "
        "sites = build_sites(build_instance(request('over', 12, 8, 1, 1.0))); "
        "found = Improver(sites, usual_prices(sites), by_cost=False, seed=1); "
        "found.start(None); found.run(0.0, steps=400, halt=lambda: False); "
        "print(*found.search.best.items)"
    )
    uncompiled = run("-c", code, environment={"PARTITIOND_NATIVE_DIR": str(tmp_path)})
    assert uncompiled.returncode == 0, uncompiled.stderr
    assert run("-c", code).stdout == uncompiled.stdout


@pytest.mark.full
@pytest.mark.timeout(2 * BUILD_SECONDS)
def test_the_proxys_tests_pass_compiled() -> None:
    """In processes that import the compiled modules."""
    compiled()
    done = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", TIERS["test"], "-k", NOT_REPEATED,
        *(str(path) for path in sorted((ROOT / "tests" / "proxy").glob("test_*.py"))
          if path.name not in LEFT_OUT),
        "tests/core/dispatch/test_fair_queue.py", "tests/core/keys/test_rates_and_budgets.py",
        "tests/core/dispatch/test_quarantine.py", "tests/core/dispatch/test_admission.py",
        "tests/core/dispatch/test_estimates.py", "tests/core/keys/test_tokens_charged.py",
        "tests/core/dispatch/test_balance.py", "tests/core/dispatch/test_affinity.py",
        "tests/proxy/peers/test_hops.py", "tests/proxy/peers/test_limits_over_a_hop.py",
        environment={"PARTITIOND_TEST_NATIVE": "1"}, seconds=580,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
