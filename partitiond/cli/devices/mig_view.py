"""Draws MIG: memory slices in their places, and the steps of a change one by one."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from partitiond.cli.devices.mig_gpus import GpuPlan, MigGpu
from partitiond.core.hardware.kinds import MIG_MEMORY_SLICES, MigProfile
from partitiond.core.mig.changes import PresentInstance, place_text, step_text
from partitiond.core.mig.geometry import starts_of
from partitiond.core.units import format_bytes

CELL = 8
"""Columns of one memory slice."""


def gpus_view(gpus: Sequence[MigGpu]) -> RenderableType:
    """All GPUs: mode, slices, instances."""
    parts: list[RenderableType] = []
    for gpu in gpus:
        parts += [*_gpu(gpu), ""]
    return Group(*parts[:-1])


def plans_view(plans: Sequence[GpuPlan]) -> RenderableType:
    """The planned steps, GPU by GPU."""
    lines: list[RenderableType] = []
    for plan in plans:
        lines.append(_title(plan.gpu))
        if plan.refused is not None:
            lines.append(Text(f"  cannot: {plan.refused.reason}.", style="red"))
            lines.append(Text(f"  what to do: {plan.refused.hint}"))
        elif not plan.steps:
            lines.append(Text("  nothing to do: it is as wanted.", style="dim"))
        for number, step in enumerate(plan.steps, start=1):
            lines.append(Text(f"  {number}. {step_text(step)}"))
    return Group(*lines)


def gpu_data(gpu: MigGpu) -> dict[str, object]:
    """One GPU as JSON."""
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "capable": gpu.state.capable,
        "enabled": gpu.state.enabled,
        "pending": gpu.state.pending,
        "places_known": gpu.state.placed,
        "instances": [
            {
                "mig_profile": i.place[0],
                "slice_start": i.place[1],
                "slice_count": i.place[2],
                "memory_bytes": i.memory_bytes,
                "uuid": i.uuid,
                "pids": list(i.pids),
                "engines": list(gpu.users(i.place)),
            }
            for i in gpu.state.instances
        ],
        "mig_profiles": [
            {
                "name": p.name,
                "max_instances": p.max_instances,
                "starts": list(starts_of(p)),
                "slice_count": p.memory_slices,
                "sm_count": p.sm_count,
                "memory_bytes": p.memory_bytes,
            }
            for p in gpu.state.profiles
        ],
    }


def plan_data(plan: GpuPlan) -> dict[str, object]:
    """The planned changes of one GPU as JSON."""
    refused = plan.refused
    return {
        "index": plan.gpu.index,
        "uuid": plan.gpu.uuid,
        "steps": [step_text(step) for step in plan.steps],
        "refused": None if refused is None else refused.reason,
        "hint": None if refused is None else refused.hint,
    }


def _gpu(gpu: MigGpu) -> Iterator[RenderableType]:
    yield _title(gpu)
    if not gpu.state.enabled:
        if gpu.state.profiles:
            yield Text(f"  it offers {_offer(gpu.state.profiles)}", style="dim")
        return
    yield _slices(gpu)
    if gpu.state.instances:
        yield _instances(gpu)
    else:
        yield Text(f"  no instances; it offers {_offer(gpu.state.profiles)}", style="dim")
    if not gpu.state.placed:
        yield Text(
            "  Where instances are is told to root only: the places shown are made up so that they "
            "fit.",
            style="yellow",
        )


def _title(gpu: MigGpu) -> Text:
    line = Text(f"GPU {gpu.index}  {gpu.name}  ", style="bold")
    line.append(gpu.uuid, style="dim")
    return line.append(f"  {_mode(gpu)}")


def _mode(gpu: MigGpu) -> str:
    state = gpu.state
    if not state.capable:
        return "has no MIG"
    words = f"MIG {'on' if state.enabled else 'off'}"
    if state.pending == state.enabled:
        return words
    return f"{words}, {'on' if state.pending else 'off'} after the next reset"


def _slices(gpu: MigGpu) -> Text:
    """Every memory slice: instances with their names, free ones as dots."""
    line = Text("  ", no_wrap=True)
    by_start = {i.place[1]: i for i in gpu.state.instances}
    at = 0
    while at < MIG_MEMORY_SLICES:
        instance = by_start.get(at)
        if instance is None:
            line.append("·" * (CELL - 1) + " ", style="dim")
            at += 1
            continue
        width = instance.place[2] * CELL - 1
        line.append(f"[{instance.place[0]}".ljust(width - 1, "─") + "] ", style=_style(instance))
        at += max(1, instance.place[2])
    return line


def _style(instance: PresentInstance) -> str:
    if not instance.whole:
        return "red"
    return "yellow" if instance.busy else "green"


def _instances(gpu: MigGpu) -> Table:
    table = Table(box=None, pad_edge=True, show_header=True, header_style="dim")
    for name in ("instance", "memory", "MIG device", "used by"):
        table.add_column(name, no_wrap=name != "used by")
    for i in gpu.state.instances:
        table.add_row(
            place_text(i.place),
            format_bytes(i.memory_bytes) if i.memory_bytes else "",
            i.uuid or "no compute instance",
            _used_by(gpu, i),
        )
    return table


def _used_by(gpu: MigGpu, instance: PresentInstance) -> str:
    engines = gpu.users(instance.place)
    if engines:
        return f"engine {', '.join(engines)}"
    if not instance.compute_instances and instance.place not in gpu.left_over:
        return "nobody: blocked until it is completed or destroyed"
    if instance.compute_instances > 1:
        return f"split into {instance.compute_instances} compute instances"
    if instance.pids:
        return f"process {', '.join(str(pid) for pid in instance.pids)}"
    return "left over, ours" if instance.place in gpu.left_over else "nobody"


def _offer(profiles: Sequence[MigProfile]) -> str:
    return ", ".join(f"{p.max_instances}x {p.name}" for p in profiles)
