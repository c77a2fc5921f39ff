"""Runs the command line: `python -m bench.gpu_check --budget 900 --out DIR`."""

import argparse
import asyncio
import contextlib
import functools
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.gpu_check.lab import Lab, Tools
from bench.gpu_check.ledger import Ledger, Subject, locked
from bench.gpu_check.leftovers import END_SECONDS, scratch
from bench.gpu_check.mps import MpsUnavailableError, control_program
from bench.gpu_check.run import Budget, Check, write_report
from bench.gpu_check.runner import CheckRunner
from bench.gpu_check.scale import BUDGETS, CPU, FAKE, PLANS, REAL, Scale
from bench.gpu_check.schedule import State, in_order
from bench.gpu_check.steps import all_steps
from partitiond.core.errors import EngineUnavailableError, InputError, PartitiondError
from partitiond.core.hardware.kinds import Device, DeviceKind
from partitiond.devices.host import HostDevices
from partitiond.devices.nvml import used_bytes
from partitiond.devices.telemetry import HostTelemetry
from partitiond.engines.install.environment import EngineEnvironment, read_environment
from partitiond.engines.vllm.capabilities import capabilities_of
from partitiond.platform.deadline_calls import DeadlineCalls

if TYPE_CHECKING:
    from partitiond.simulated.gpus import SimulatedHost

OK, FAILED, USAGE, NO_GPU, INTERRUPTED = 0, 1, 2, 4, 130
SIMULATED_LOAD = {
    "sm_activity": 0.3,
    "sm_occupancy": 0.1,
    "dram_activity": 0.2,
    "gpu_util": 0.9,
    "power_watts": 250.0,
}
"""Load that the simulated GPU reports throughout: busy most of the time with few of its SMs, as a
GPU that serves small models. With an idle GPU, time slices would cost nothing."""
STREAM_INTERVAL = 8
"""Tokens in a chunk of every engine, so that clients are not what is measured; it changes ITL."""
NO_GPU_TEXT = "There is no NVIDIA GPU on this machine, so nothing was measured."


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", allow_abbrev=False)
    parser.add_argument(
        "--budget",
        type=float,
        help="seconds, everything included (default "
        f"{', '.join(f'{seconds:g} of {name}' for name, seconds in BUDGETS.items())})",
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="results; kept")
    parser.add_argument(
        "--scale",
        choices=PLANS,
        help="which trials, by value; results are shared (default full; with --cpu only quick)",
    )
    parser.add_argument("--only", default="", help="steps, as 1,2; what they need runs, too")
    parser.add_argument(
        "--engine-python", type=Path, default=Path(sys.executable), help="interpreter with vLLM"
    )
    parser.add_argument("--cache", type=Path, help="compiled kernels, kept between runs")
    parser.add_argument(
        "--engine-arg", action="append", default=[], help="of every engine: --engine-arg=--flag"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--mig", action="store_true", help="make and destroy GPU instances, where MIG mode is on"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--fake", action="store_true", help="simulate the GPU and its engines")
    instead.add_argument("--cpu", action="store_true", help="measure on the host's CPU")
    arguments = parser.parse_args(argv)
    arguments.command = shlex.join(["python", "-m", "bench.gpu_check", *argv])
    arguments.scale = arguments.scale or ("quick" if arguments.cpu else "full")
    if arguments.cpu and arguments.scale != "quick":
        parser.error(f"--cpu runs --scale quick alone: those of {arguments.scale} need a GPU")
    try:
        arguments.only = frozenset(int(n) for n in arguments.only.split(",") if n.strip())
    except ValueError:
        parser.error(f"--only takes step numbers, as 1,2; got {arguments.only!r}")
    known = {step.number for step in all_steps()}
    if not arguments.only <= known:
        parser.error(f"--only: there are the steps {min(known)} to {max(known)}")
    if arguments.budget is None:
        arguments.budget = BUDGETS[arguments.scale]
    if not 0 < arguments.budget < math.inf:
        parser.error("--budget takes seconds above 0")
    return arguments


def say(text: str) -> None:
    """Print progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def scale_of(arguments: argparse.Namespace) -> Scale:
    if arguments.fake:
        return FAKE
    return CPU if arguments.cpu else REAL


def engine_of(arguments: argparse.Namespace) -> EngineEnvironment:
    """The engine's environment. Raises EngineUnavailableError."""
    python = arguments.engine_python
    found = read_environment(python)
    if found is None or found.variant != ("cpu" if arguments.cpu else "cuda"):
        raise EngineUnavailableError(
            f"{python} has no vLLM for {'the CPU' if arguments.cpu else 'NVIDIA GPUs'}.",
            hint="Name one by --engine-python; see docs/how-to/gpu-check.md.",
        )
    capabilities_of(found.version)
    return found


def mps_of(device: Device, host: "SimulatedHost | None") -> Path | str:
    """The MPS control program, or the reason why there is none."""
    if host is not None:
        return host.mps_control
    try:
        return Path(control_program(device))
    except MpsUnavailableError as error:
        return str(error.args[0])


def prepared(
    arguments: argparse.Namespace, device: Device, host: "SimulatedHost | None", folder: Path
) -> Lab:
    """A lab for the device; `folder` is for what lives as long as it. Raises PartitiondError."""
    scale = scale_of(arguments)
    if host is None:
        environment = engine_of(arguments)
        engine = f"vllm {environment.version}"
        args: tuple[str, ...] = ("--stream-interval", str(STREAM_INTERVAL))
    else:
        environment, engine, args = None, "simulated", ("--token-seconds", "0.004")
    ledger = Ledger.load(arguments.out, Subject(device.hardware, engine, scale.name))
    args = (*args, *arguments.engine_arg)
    ledger.try_by(arguments.command, args)
    kept = arguments.cache or Path.home() / ".cache" / "partitiond" / "gpu-check"
    cache = kept.absolute() if host is None else folder / "cache"
    runner = CheckRunner(
        folder / "run",
        environment,
        cache_dir=cache,
        on_start=functools.partial(host.add_process, device.id) if host is not None else None,
    )
    looks = DeadlineCalls()
    tools = Tools(
        runner=runner,
        telemetry=HostTelemetry(looks=looks),
        used_bytes=lambda: looks.ask(device.id, lambda: used_bytes(device.id)),
        mps_program=mps_of(device, host),
        cache_dir=cache,
        engine_kind="vllm" if host is None else "simulated",
        engine_args=args,
        engine_python=None if environment is None else environment.python,
        mig=arguments.mig,
        cuda_library=None if host is None else host.cuda_path,
    )
    return Lab(
        device,
        scale=scale,
        tools=tools,
        ledger=ledger,
        folder=arguments.out,
        seed=arguments.seed,
        say=lambda text: say(f"  {text}"),
    )


async def cancelled_by_sigterm(check: Check) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await check.run()


def measure(arguments: argparse.Namespace, lab: Lab, budget: Budget) -> int:
    """Run the check on a device; the report is written on every way out."""

    def report() -> Path:
        return write_report(
            arguments.out,
            lab.scale,
            ledger=lab.ledger,
            budget=budget,
            tried=tuple(check.tried),
            not_reached=check.not_reached,
        )

    check = Check(lab, budget, PLANS[arguments.scale], say, only=arguments.only, after_trial=report)
    check.tell_plan()
    status = OK
    try:
        asyncio.run(cancelled_by_sigterm(check))
    except (KeyboardInterrupt, asyncio.CancelledError):
        status = INTERRUPTED
        say("interrupted; what was done is kept")
    path = report()
    print(f"{len(check.tried)} trials in {budget.used:.0f} s; see {path}")
    broke = any(lab.ledger.entries[t].state is State.FAILED for t in check.failed)
    return FAILED if status == OK and broke else status


def nothing_to_measure_on(arguments: argparse.Namespace, budget: Budget) -> int:
    """Report that there is no GPU, on standard output and in the report."""
    every = [trial for step in all_steps() for trial in step.trials(REAL)]
    trials = in_order(every, PLANS[arguments.scale])
    reasons = {trial.id: "there is no GPU" for trial in trials}
    path = write_report(
        arguments.out,
        REAL,
        ledger=None,
        budget=budget,
        not_reached=reasons,
        headline=NO_GPU_TEXT,
    )
    print(f"{NO_GPU_TEXT} {len(trials)} trials were not reached; see {path}")
    return NO_GPU


@contextlib.contextmanager
def first_device(
    folder: Path, *, fake: bool, cpu: bool
) -> Iterator[tuple[Device | None, "SimulatedHost | None"]]:
    """The first visible GPU, if any, or the CPU; and a simulated GPU's host, in a folder.

    Raises:
        DeviceError: there is no C compiler to build the simulated host.
        InputError: CUDA_VISIBLE_DEVICES names no GPU.
    """
    if not fake:
        kind = DeviceKind.CPU if cpu else DeviceKind.GPU
        yield _discovered(kind, None if cpu else os.environ.get("CUDA_VISIBLE_DEVICES")), None
        return
    # Simulated hosts need packages that vLLM's environment lacks.
    from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost

    # The name marks profiles made here, which must not pass for profiles of a real GPU.
    gpu = GpuDescription("h200-141gb", name="NVIDIA H200 (simulated)")
    host = SimulatedHost.create(HostDescription("gpu-check", (gpu,)), folder / "gpu")
    host.set_load(host.uuids()[0], **SIMULATED_LOAD)
    with host.installed():
        yield _discovered(DeviceKind.GPU), host


def _discovered(kind: DeviceKind, visible: str | None = None) -> Device | None:
    return visible_first([d for d in HostDevices().discover() if d.kind is kind], visible)


def visible_first(devices: Sequence[Device], visible: str | None) -> Device | None:
    """The first device that CUDA_VISIBLE_DEVICES names, by index or UUID; of all where it is unset.

    Raises:
        InputError: it names none of them.
    """
    if visible is None or not devices:
        return next(iter(devices), None)
    name = visible.partition(",")[0].strip()
    for number, device in enumerate(devices):
        if name == str(number) or (name and device.id.startswith(name)):
            return device
    raise InputError(
        f"CUDA_VISIBLE_DEVICES={visible} names none of this machine's GPUs.",
        hint="Name one by its index or UUID, or unset the variable.",
    )


def checked(arguments: argparse.Namespace, budget: Budget) -> int:
    """Find the GPU, then measure. Raises PartitiondError."""
    try:
        arguments.out = arguments.out.absolute()
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{arguments.out} cannot be made: {error.strerror}.", hint="Choose another --out."
        ) from error
    with (
        locked(arguments.out, END_SECONDS) as lock,
        scratch(lock) as folder,
        first_device(folder, fake=arguments.fake, cpu=arguments.cpu) as (gpu, host),
    ):
        if gpu is None:
            return nothing_to_measure_on(arguments, budget)
        return measure(arguments, prepared(arguments, gpu, host, folder), budget)


def main(argv: Sequence[str]) -> int:
    began = time.monotonic()
    arguments = parse(argv)
    try:
        return checked(arguments, Budget(arguments.budget, began))
    except PartitiondError as error:
        say(f"error: {error}")
        return USAGE if isinstance(error, InputError) else FAILED
    except OSError as error:
        say(f"error: {arguments.out} cannot be written ({error}); what was kept before is.")
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
