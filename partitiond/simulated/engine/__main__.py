"""Runs the simulated engine from the command line."""

import argparse
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn

from partitiond.core.model.engine_task import task_of
from partitiond.core.performance.engine_speed import SPEED_VARIABLE, EngineSpeed
from partitiond.core.performance.interference import ALONE
from partitiond.simulated.engine.app import make_app
from partitiond.simulated.engine.batch import Batch
from partitiond.simulated.engine.engine import SimulatedEngine
from partitiond.simulated.engine.gpu import HOST_VARIABLE, SimulatedGpuMemory, add_flags
from partitiond.simulated.engine.loop import EngineLoop
from partitiond.simulated.engine.neighbours import Neighbours
from partitiond.simulated.engine.sleeping import Sleep
from partitiond.simulated.steps import Steps, constant_steps, fit_steps

KEEP_ALIVE_SECONDS = 120
TOKEN_SECONDS = 0.01
"""Of one decode step where nothing was planned: on a CPU. Chosen."""


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the flags; those that vLLM has as well have vLLM's names."""
    parser = argparse.ArgumentParser(prog="partitiond.simulated.engine", allow_abbrev=False)
    parser.add_argument("--uds", required=True, help="Unix socket to listen on")
    parser.add_argument("--model", required=True, help="served model name")
    parser.add_argument("--runner", help="pooling: embed and rank")
    parser.add_argument("--convert", help="classify")
    parser.add_argument("--enable-auto-tool-choice", action="store_true")
    parser.add_argument("--tool-call-parser", help="chats call the first tool; any name is taken")
    parser.add_argument("--reasoning-parser", help="taken, and without effect")
    parser.add_argument("--profile", type=Path, help="profile (JSON) whose speed to have")
    parser.add_argument("--token-seconds", type=float, help="one decode step alone")
    parser.add_argument("--step-factor", type=float, default=1.0, help="times of what was planned")
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048)
    parser.add_argument("--kv-cache-tokens", type=int, default=65536)
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--load-seconds", type=float, default=0.0, help="time to come up")
    parser.add_argument("--crash-after-requests", type=int, help="die when so many were accepted")
    parser.add_argument("--crash-at-running", type=int, help="die when so many run at once")
    parser.add_argument("--break-at-token", type=int, help="answer with errors from that token on")
    parser.add_argument("--quantization", help="taken, and without effect")
    parser.add_argument("--kv-cache-dtype", default="auto", help="taken, and without effect")
    parser.add_argument("--crash-after-seconds", type=float, help="die so long after coming up")
    parser.add_argument("--enable-sleep-mode", action="store_true")
    parser.add_argument("--fail-start", metavar="MESSAGE", help="print MESSAGE and exit with 1")
    add_flags(parser)
    arguments = parser.parse_args(argv)
    arguments.task = task_of(argv)
    return arguments


def planned_speed(arguments: argparse.Namespace, text: str) -> EngineSpeed | None:
    """Read the speed that was planned; None if none was, or the flags say another."""
    told = arguments.profile is not None or arguments.token_seconds is not None
    return EngineSpeed.from_json(text) if text and not told else None


def step_model(arguments: argparse.Namespace, speed: EngineSpeed | None) -> Steps:
    """Step times from the profile, those that were planned, or those that the user says."""
    if arguments.profile is not None:
        # Imported here: reading a profile needs pydantic, which takes as long to import as the rest
        from partitiond import serde
        from partitiond.core.profile.record import Profile

        return fit_steps(serde.from_json(Profile, arguments.profile.read_bytes()))
    if speed is not None:
        return speed.steps
    seconds = arguments.token_seconds
    return constant_steps(TOKEN_SECONDS if seconds is None else seconds)


def slowdown(
    arguments: argparse.Namespace, speed: EngineSpeed | None, host: str
) -> Callable[[float], float]:
    """Return how long a step takes on its device, whose time alone is given."""
    factor: float = arguments.step_factor
    if speed is None or speed.mode in ALONE:
        return lambda seconds: factor * seconds
    beside = Neighbours(Path(host), speed)
    return lambda seconds: beside.slowed(factor * seconds)


def bind(path: str) -> socket.socket:
    """Bind as vLLM does: before loading, without removing a stale socket, listening later."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    return listener


def crash_after(seconds: float) -> None:
    """Kill this process without a message after so many seconds, as a crash does."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def main(argv: list[str]) -> int:
    """Serve until told to stop."""
    arguments = parse(argv)
    print("INFO simulated engine: non-default args", vars(arguments), flush=True)
    if arguments.fail_start is not None:
        print(f"error: {arguments.fail_start}", file=sys.stderr, flush=True)
        return 1
    listener = bind(arguments.uds)
    print("INFO Starting to load model", arguments.model, flush=True)
    time.sleep(arguments.load_seconds)
    host = os.environ.get(HOST_VARIABLE, "")
    memory: SimulatedGpuMemory | None = None
    if host and os.environ.get("CUDA_VISIBLE_DEVICES"):
        memory = SimulatedGpuMemory.take(arguments, host)
        memory.watch()
    speed = planned_speed(arguments, os.environ.get(SPEED_VARIABLE, ""))
    batch = Batch(
        arguments.max_num_seqs, arguments.max_num_batched_tokens, arguments.kv_cache_tokens
    )
    engine = SimulatedEngine(
        loop=EngineLoop(batch, step_model(arguments, speed), slowdown(arguments, speed, host)),
        model=arguments.model,
        max_model_len=arguments.max_model_len,
        kv_cache_tokens=arguments.kv_cache_tokens,
        crash_after_requests=arguments.crash_after_requests,
        crash_at_running=arguments.crash_at_running,
        break_at_token=arguments.break_at_token,
        calls_tools=arguments.enable_auto_tool_choice and bool(arguments.tool_call_parser),
        sleep=Sleep(memory) if arguments.enable_sleep_mode else None,
    )
    print(f"INFO KV cache size: {arguments.kv_cache_tokens:,} tokens", flush=True)
    if arguments.crash_after_seconds is not None:
        crash_after(arguments.crash_after_seconds)
    config = uvicorn.Config(
        make_app(engine, arguments.task),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
