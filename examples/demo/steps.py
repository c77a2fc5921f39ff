"""Implements the steps of the demo: each function does one thing and reports it."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from examples.demo import overload as demo_overload
from examples.demo.story import Story
from partitiond.cli.plan.commands import plan_and_apply
from partitiond.cli.plan.up import register_or_update
from partitiond.cli.plan.view import render_plan
from partitiond.cli.profile.table import profile_table
from partitiond.cli.progress import Reporter, reporting
from partitiond.cli.setup.engine import chosen_variant, find_engine, install_engine
from partitiond.cli.waiting import wait_for_job, wait_for_plan
from partitiond.controller.profiles.targets import speaks_for
from partitiond.core.errors import ConflictError, EngineUnavailableError, PartitiondError
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.spec import ModelSpec, Slo
from partitiond.core.model.workload import Workload
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import Job, ProfileOptions
from partitiond.core.profile.record import Profile, ProfileKind, operating_point
from partitiond.core.units import GIB, format_bytes
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.models.resolver import Resolver

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient
    from partitiond.settings.schema import Settings

OVERLOAD: Final = 1.5
SEED: Final = 7
CHAT_QUESTION: Final = "Name three primary colors."
"""Its first token is no near-tie: rounding decides near-ties differently on each CPU."""

WORKLOAD: Final = Workload(prompt_tokens=160, output_tokens=16)
"""More prompt than answer: computing prompts fills a core first, so the knee lies at a batch that
a demo has the time to reach."""
MODEL_BYTES: Final = 5 * GIB
"""Memory that each model is measured with on the CPU; each takes less than 3 GiB."""
MODEL_SHARE: Final = 0.4
"""Largest share of the CPU device's memory for one model: some is left free for the system."""
SLO: Final = Slo(ttft_seconds=1.5, tpot_seconds=0.3)
"""Wide for one token, because one core is slow; narrow for the queue, which overload makes
long."""


def engine(story: Story, settings: "Settings") -> EngineEnvironment:
    """Find the engine, or install it."""
    variant = chosen_variant(settings)
    try:
        environment = find_engine(settings, variant)
        story.say(f"reused: {environment.python.parent.parent}")
    except EngineUnavailableError:
        if settings.engine.python is not None:
            raise
        story.say("installing it takes about half a minute and 3.5 GB, once")
        environment = install_engine(settings, variant)
    story.say(f"vLLM {environment.version} ({environment.variant})")
    return environment


async def prepare_models(
    story: Story,
    settings: "Settings",
    environment: EngineEnvironment,
    specs: Sequence[ModelSpec],
) -> None:
    """Get both models onto the disk, with progress."""
    resolver = Resolver(
        settings.models_dir, environment.python, settings.models.offline, settings.models.hub
    )
    for spec in specs:
        with reporting(story.console) as report:
            resolved = await resolver.resolve(
                spec,
                lambda text, fraction, to=report: to.update(text, fraction),  # type: ignore[misc]
            )
        size = format_bytes(resolved.architecture.weights_bytes)
        kind = "dummy weights: true speed, no sense" if resolved.dummy_weights else "real weights"
        story.say(f"{spec.name}: {size}, {kind}")


def measure_all(
    story: Story, client: "ControlClient", specs: Sequence[ModelSpec], version: str
) -> list[Profile]:
    """Register both models and measure those that no earlier run has measured."""
    kept = {spec.name: _kept_profile(client, spec, version) for spec in specs}
    if not all(kept.values()):
        _forget(client)  # replicas of an earlier run would hold the cores that are measured
    for spec in specs:
        register_or_update(client, spec)
    # Both jobs are queued at once: the daemon plans nothing by itself while a job is open.
    jobs = {name: _ask(client, name) for name, profile in kept.items() if profile is None}
    profiles = []
    for spec in specs:
        profile = kept[spec.name]
        if profile is None:
            profile = _wait(story, client, jobs[spec.name])
        else:
            story.say(f"{spec.name}: measured by an earlier run, {profile.provenance.started_at}")
        story.show(profile_table(profile))
        profiles.append(profile)
    return profiles


def _kept_profile(client: "ControlClient", spec: ModelSpec, version: str) -> Profile | None:
    """Return the profile of an earlier run here for the same model, workload and engine, if any."""
    hardware = {device.hardware for device in client.devices()}
    for profile in client.profiles(spec.name):
        if (
            profile.kind is ProfileKind.MEASURED
            and profile.hardware in hardware
            and profile.provenance.engine_version == version
            and speaks_for(profile, spec)
        ):
            return profile
    return None


def _forget(client: "ControlClient") -> None:
    for view in client.models():
        client.remove(view.record.spec.name)


def _ask(client: "ControlClient", name: str) -> Job:
    """Queue a profile job; on the CPU, with a core and memory that leave room for the other."""
    cpu = next((device for device in client.devices() if device.kind is DeviceKind.CPU), None)
    if cpu is None:
        return client.profile(name, ProfileOptions())
    memory = min(MODEL_BYTES, int(cpu.memory_bytes * MODEL_SHARE))
    return client.profile(name, ProfileOptions(cores=1, memory_bytes=memory))


def _wait(story: Story, client: "ControlClient", job: Job) -> Profile:
    done = wait_for_job(client, job.id, story.console)
    if done.result is None:
        raise PartitiondError(f"job {done.id} made no profile.", hint="See the daemon's log.")
    return client.profile_by_id(done.result)


def with_held_slo(
    story: Story, client: "ControlClient", specs: Sequence[ModelSpec], profiles: Sequence[Profile]
) -> list[ModelSpec]:
    """Give both models a wider SLO, and say so, if this machine did not hold the demo's own when
    it was measured.
    """
    slo = held_slo(profiles)
    if slo == SLO:
        return list(specs)
    story.say(
        "this machine is slow, or busy with something else: the SLO is widened to a first "
        f"token within {slo.ttft_seconds:g} s, then {slo.tpot_seconds:g} s per token"
    )
    widened = [dataclasses.replace(spec, slo=slo) for spec in specs]
    for spec in widened:
        register_or_update(client, spec)
    return widened


def held_slo(profiles: Sequence[Profile]) -> Slo:
    """Return the demo's SLO, its times doubled until each profile has a point that holds it.

    The times are doubled ten times at most: a profile without any usable point holds none.
    """
    slo = SLO
    for _ in range(10):
        if all(operating_point(profile, slo) is not None for profile in profiles):
            break
        slo = Slo(2 * slo.ttft_seconds, 2 * slo.tpot_seconds, slo.quantile)
    return slo


def plan(story: Story, client: "ControlClient") -> Plan:
    """Make a plan without changing anything, and draw it with its certificate."""
    preview = client.plan(None)
    if preview.infeasible is not None:
        raise PartitiondError(
            "there is no plan: " + "; ".join(preview.infeasible.reasons),
            hint=" ".join(preview.infeasible.remedies),
        )
    story.show(render_plan(preview.plan, preview.diff))
    return preview.plan


def apply(story: Story, client: "ControlClient", plan: Plan) -> None:
    """Apply the plan and wait until every replica serves."""
    try:
        client.apply(plan.id)
    except ConflictError:  # the daemon's own chain applied the same plan a moment before
        plan = plan_and_apply(client).plan
    wait_for_plan(client, plan.id, story.console)
    for view in client.replicas():
        story.say(f"{view.replica_id} serves (pid {view.pid}, at most {view.limit} at once)")


def chat(story: Story, settings: "Settings", model: str) -> str:
    """Send one chat completion through the endpoint, and return its answer."""
    import httpx

    story.say(f"> {CHAT_QUESTION}")
    try:
        reply = httpx.post(
            f"{settings.proxy_url}/v1/chat/completions",
            json={
                "model": model,
                "messages": [{"role": "user", "content": CHAT_QUESTION}],
                "max_tokens": 48,
                "temperature": 0,
            },
            timeout=120,
        )
        reply.raise_for_status()
        answer = str(reply.json()["choices"][0]["message"]["content"]).strip()
    except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
        raise PartitiondError(
            f"the chat completion failed: {error}.", hint="`partitiond status` shows the replicas."
        ) from error
    story.say(f"< {answer}")
    return answer


def overload(
    story: Story,
    client: "ControlClient",
    settings: "Settings",
    plan: Plan,
    specs: Sequence[ModelSpec],
    *,
    seconds: float,
) -> list[demo_overload.Side]:
    """Send the same overload to partitiond and to its engines bare; show both side by side."""
    sent = lanes(client, plan, specs, OVERLOAD)
    for lane in sent:
        story.say(f"{lane.model}: {lane.req_per_s:.2g} requests/s, Poisson")
    sides = []
    for label, proxy in (("partitiond", settings.proxy_url), ("bare engines", None)):
        with reporting(story.console) as report:
            sides.append(
                asyncio.run(
                    demo_overload.run_side(
                        label,
                        sent,
                        proxy=proxy,
                        seconds=seconds,
                        seed=SEED,
                        progress=_timed(report, seconds),
                    )
                )
            )
    slo = sent[0].slo
    story.say(
        f"SLO: first token within {slo.ttft_seconds:g} s, then {slo.tpot_seconds:g} s per token."
    )
    story.show(demo_overload.comparison(sides))
    return sides


def _timed(report: Reporter, seconds: float) -> Callable[[str, float], None]:
    return lambda text, fraction: report.update(text, fraction, (1 - fraction) * seconds)


def lanes(
    client: "ControlClient", plan: Plan, specs: Sequence[ModelSpec], load: float
) -> list[demo_overload.ModelLoad]:
    """Return each model's share of an overload of `load` times the planned capacity."""
    capacity = {f.model: f.capacity_req_per_s for f in plan.forecasts}
    sockets: dict[str, list[str]] = {}
    for view in client.replicas():
        if view.state == "serving":
            sockets.setdefault(view.model, []).append(view.socket_path)
    return [
        demo_overload.ModelLoad(
            spec.name,
            load * capacity[spec.name],
            WORKLOAD,
            spec.slo or SLO,
            tuple(sockets[spec.name]),
        )
        for spec in specs
    ]
