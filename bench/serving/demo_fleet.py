"""Starts the demo's daemon and models for a benchmark, with common options, and ends them."""

import argparse
import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from bench.command import options
from examples.demo import steps as demo_steps
from examples.demo.daemon import DemoDaemon
from examples.demo.demo import DemoOptions, demo_specs, prepare_folder
from examples.demo.story import Story
from partitiond.cli.options import connect
from partitiond.cli.waiting import wait_for_job
from partitiond.client.client import ControlClient
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.jobs import ProfileOptions
from partitiond.core.profile.record import ProfileKind
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.settings.schema import Settings


@dataclasses.dataclass(frozen=True, slots=True)
class DemoFleet:
    """A running daemon whose models are on disk; nothing is registered yet."""

    story: Story
    settings: Settings
    environment: EngineEnvironment
    client: ControlClient
    specs: list[ModelSpec]

    def measure(self, spec: ModelSpec, cores: int | None) -> None:
        """Profile a registered model on this many cores, unless an earlier run did."""
        if any(
            profile.kind is ProfileKind.MEASURED
            and profile.workload == spec.workload
            and cores in {None, profile.size.cores}
            for profile in self.client.profiles(spec.name)
        ):
            self.story.say(f"{spec.name}, {spec.workload.key} tokens: measured by an earlier run")
            return
        self.story.say(
            f"{spec.name}, {spec.workload.key} tokens, {cores or 'all'} cores: measuring"
        )
        job = self.client.profile(spec.name, ProfileOptions(cores=cores))
        wait_for_job(self.client, job.id, self.story.console)


def options_parser(
    description: str, *, pairs: int, seconds: float, folder: str
) -> argparse.ArgumentParser:
    """The options that all benchmarks on the demo's fleet have."""
    parser = options(description, pairs=pairs, seconds=seconds, folder=Path(folder))
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    return parser


@contextlib.contextmanager
def demo_fleet(given: argparse.Namespace, models: int) -> Iterator[DemoFleet]:
    """Start the daemon with the demo's first `models` models prepared; end it afterwards."""
    chosen = DemoOptions(
        given.folder.absolute(),
        once=True,
        hub=False,
        seconds=given.seconds,
        overrides=tuple(given.overrides),
    )
    story = Story(Console(stderr=True), 1)
    settings, config = prepare_folder(chosen)
    daemon = DemoDaemon(settings, config, chosen.overrides)
    client = connect(settings)
    specs = demo_specs(chosen, settings)[:models]
    try:
        environment = demo_steps.engine(story, settings)
        asyncio.run(demo_steps.prepare_models(story, settings, environment, specs))
        daemon.start(client, story.say)
        client.close()
        client = connect(settings)  # a new folder has the admin token only now
        yield DemoFleet(story, settings, environment, client, specs)
    finally:
        daemon.stop(client)
        client.close()
