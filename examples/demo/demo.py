"""Runs the demo step by step: shows a newcomer what partitiond does on this machine, for real."""

import asyncio
import dataclasses
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from examples.demo import steps as demo_steps
from examples.demo.daemon import (
    HURRIED_SECONDS,
    STOP_SECONDS,
    DemoDaemon,
    check_folder,
    free_port,
    is_own_run_folder,
    run_folder,
    toml_text,
)
from examples.demo.story import Story
from partitiond.cli.options import connect, parse_overrides
from partitiond.cli.output import err, out
from partitiond.cli.progress import reporting
from partitiond.cli.setup.engine import has_gpu
from partitiond.cli.starting import lock_is_held
from partitiond.core.errors import ConflictError, DeviceError, PartitiondError
from partitiond.core.model.spec import Demand, ModelSpec, Weights
from partitiond.models.catalog import source_for
from partitiond.settings.schema import Settings, load_settings

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient

STEPS: Final = 9
PROFILE_SETTINGS: Final[dict[str, object]] = {
    # One core for each model: both then fit on two cores.
    "profiling.cpu_partition_cores": [1],
    "profiling.max_batch": 24,
    # On `bench.search`'s engine, with curves of two such models, these limits find a batch as good
    # as 110 s, windows of 4 to 12 s and batches up to 32 do: 95 to 97 % of the best in the mean.
    # With 45 s a knee is missed three times as often.
    "profiling.time_limit_seconds": 60,
    "profiling.min_window_seconds": 3,
    "profiling.max_window_seconds": 8,
}


@dataclasses.dataclass(frozen=True, slots=True)
class DemoOptions:
    """The options of the command.

    Attributes:
        folder: the demo's state folder, absolute.
        once: shut down at the end even on a terminal.
        hub: fetch the models from the Hugging Face hub.
        seconds: length of each overload run.
        overrides: "--set" texts, which win over the demo's own settings.
        as_json: standard output is for the JSON; the story goes to standard error.
    """

    folder: Path
    once: bool
    hub: bool
    seconds: float
    overrides: tuple[str, ...] = ()
    as_json: bool = False


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Run all steps, tell the story, and return what was measured.

    Raises:
        PartitiondError: a step failed; everything that the demo started is ended first.
    """
    story = Story(err() if options.as_json else out(), STEPS)
    story.say("The demo: the whole loop on this machine, with a real engine.")
    settings, config = prepare_folder(options)

    client = connect(settings)
    daemon = DemoDaemon(settings, config, options.overrides)
    _end_on_sigterm()
    failed = True
    try:
        told = _tell(story, options, settings, client, daemon)
        failed = False
    finally:
        _shut_down(story, daemon, client, failed=failed)
        client.close()
    return told


def _end_on_sigterm() -> None:
    """Make SIGTERM end the demo as Ctrl-C does: with everything that the demo started."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def prepare_folder(options: DemoOptions) -> tuple[Settings, Path]:
    """Write the demo's settings file and read it as the daemon will.

    Raises:
        ConflictError: a demo runs on this folder already; or the folder is not a demo's, and stays
            unchanged; or another setting sends the demo to another state folder.
    """
    config = options.folder / "config.toml"
    if lock_is_held(options.folder / "daemon.lock"):
        raise ConflictError(
            f"a demo runs on {options.folder} already.",
            hint=f"End it with Ctrl-C where it runs, or: partitiond --config {config} down",
        )
    try:
        check_folder(options.folder)
        options.folder.mkdir(parents=True, exist_ok=True)
        values: dict[str, object] = {
            "state_dir": str(options.folder),
            "run_dir": str(run_folder(config)),
            "control.port": free_port(8400),
            "proxy.port": free_port(8000),
            "models.hub": options.hub,
            **PROFILE_SETTINGS,
            **_device_settings(),
        }
        config.write_text(toml_text(values), encoding="utf-8")
    except OSError as error:
        raise PartitiondError(
            f"{options.folder} cannot be written: {error.strerror}.",
            hint="Choose another folder: make demo DEMO_ARGS='--state-dir /tmp/demo'",
        ) from error
    overrides = parse_overrides(options.overrides, None)
    settings = load_settings(config, os.environ, overrides).settings
    if settings.state_dir != options.folder:
        raise ConflictError(
            f"another setting sends the demo to the state folder {settings.state_dir}.",
            hint="Leave out `--set state_dir=` and PARTITIOND_STATE_DIR; the demo has --state-dir.",
        )
    return settings, config


def _device_settings() -> dict[str, object]:
    """Return settings for two cores (four if there are plenty), or for the GPUs if any."""
    if has_gpu():
        return {"cpu.enabled": False}
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise DeviceError(
            "the demo needs two cores, one for each model; this machine offers one.",
            hint="`make tour` plans a fleet of GPUs on any machine.",
        )
    # Each engine takes a core, 4 to 5 GB and half a minute to start. Both models are measured at
    # once, side by side, as they serve later on.
    return {"cpu.cores": usable[: 4 if len(usable) >= 6 else 2], "profiling.jobs_at_once": 2}


def _tell(
    story: Story,
    options: DemoOptions,
    settings: Settings,
    client: "ControlClient",
    daemon: DemoDaemon,
) -> dict[str, Any]:
    specs = demo_specs(options, settings)
    with story.step("An engine: vLLM, in an environment of its own"):
        environment = demo_steps.engine(story, settings)
    with story.step("Two models"):
        asyncio.run(demo_steps.prepare_models(story, settings, environment, specs))
    with story.step("The daemon"), reporting(story.console) as report:
        daemon.start(client, report.update)
    story.say(f"control API on {settings.control_url}, endpoint on {settings.proxy_url}/v1")
    with story.step("Register and measure both, one core each"):
        profiles = demo_steps.measure_all(story, client, specs, environment.version)
        specs = demo_steps.with_held_slo(story, client, specs, profiles)
    with story.step("Plan"):
        plan = demo_steps.plan(story, client)
    with story.step("Apply: start the engines"):
        demo_steps.apply(story, client, plan)
    with story.step("Ask something"):
        answer = demo_steps.chat(story, settings, specs[0].name)
    with story.step(
        f"Overload: {demo_steps.OVERLOAD:g} times the capacity, {options.seconds:g} s each"
    ):
        sides = demo_steps.overload(story, client, settings, plan, specs, seconds=options.seconds)
    if not options.once and story.console.is_terminal:
        _keep_serving(story, settings, daemon, specs[0].name)
    return {
        "engine_version": environment.version,
        "profiles": profiles,
        "plan": plan,
        "answer": answer,
        "overload": [dataclasses.asdict(side) for side in sides],
        "steps": [{"step": title, "seconds": round(took, 1)} for title, took in story.times],
    }


def demo_specs(options: DemoOptions, settings: Settings) -> list[ModelSpec]:
    """Return the demo's models: a real one, and one with dummy weights unless the hub is used."""
    hub = options.hub or settings.models.hub
    found = []
    for text, weights in (
        ("smollm2-135m", Weights.REAL),
        ("opt-125m", Weights.REAL if hub else Weights.DUMMY),
    ):
        source, _ = source_for(text, hub=hub)
        found.append(
            ModelSpec(
                text,
                source,
                weights,
                demo_steps.WORKLOAD,
                demo_steps.SLO,
                Demand(),
                min_replicas=1,
                auto=False,
            )
        )
    return found


HOW_TO_CALL: Final = """\
Everything goes on serving. From another terminal:

  curl {url}/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}", api_key="none")
  answer = client.chat.completions.create(
      model="{model}", messages=[{{"role": "user", "content": "Hello!"}}]
  )
  print(answer.choices[0].message.content)

  {command} --config {config} status

Ctrl-C ends it."""


def _command() -> str:
    """Return how this command was called, for examples that work as they stand."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "partitiond" else "python -m partitiond"


def _keep_serving(story: Story, settings: Settings, daemon: DemoDaemon, model: str) -> None:
    """Show how to call the endpoint, and wait until Ctrl-C or until the daemon ends by itself."""
    config = settings.state_dir / "config.toml"
    story.show(story.summary())
    story.say(
        HOW_TO_CALL.format(
            url=f"{settings.proxy_url}/v1", model=model, config=config, command=_command()
        )
    )
    waits = threading.Event()
    with suppress(KeyboardInterrupt):
        while daemon.is_running:
            waits.wait(1.0)
        story.say(f"The daemon ended by itself; its log: {daemon.log_path}")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM: a shutdown cut short would leave engines running."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shut_down(
    story: Story, daemon: DemoDaemon, client: "ControlClient", *, failed: bool = False
) -> None:
    """End what was started, in a hurry after a failure, and say whether anything is left."""
    with undisturbed(), story.step("Shut down"), reporting(story.console) as report:
        story.say("Until this is done, Ctrl-C and SIGTERM are ignored.")
        report.update("draining and stopping")
        daemon.stop(client, HURRIED_SECONDS if failed else STOP_SECONDS)
        left = daemon.left_behind()
    story.show(story.summary())
    if left:
        shown = ", ".join(f"{name} (pid {pid})" for pid, name in left)
        raise PartitiondError(
            f"the demo left processes behind: {shown}.", hint="End them with kill, and report this."
        )
    if is_own_run_folder(daemon.settings.run_dir):
        shutil.rmtree(daemon.settings.run_dir, ignore_errors=True)
    story.say("Everything is shut down; no process is left.")
