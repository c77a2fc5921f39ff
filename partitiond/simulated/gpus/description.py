"""Reads and checks the description of a simulated host: a JSON file.

    {"name": "two-a100", "gpus": [{"model": "a100-80gb", "count": 2}]}

Unknown keys are refused.
"""

import dataclasses
import json
from pathlib import Path
from typing import Final

from partitiond.core.errors import NotFoundError, SpecError
from partitiond.platform.bounded_files import content
from partitiond.serde import from_jsonable
from partitiond.simulated.gpus.models import MODELS, mig_profile_fields

_SHIPPED: Final = Path(__file__).parent / "hosts"
MAX_GPUS: Final = 64
"""GPUs that the shared state has room for."""
MAX_CORES: Final = 1024
_MAX_NUMA_NODES: Final = 8
_MAX_NAME_BYTES: Final = 60
"""Together with the suffix of a MIG device, a name has to fit into NVML's 96 bytes."""


@dataclasses.dataclass(frozen=True, slots=True)
class GpuDescription:
    """GPUs of one model.

    Attributes:
        model: the hardware catalog's key.
        count: number of these GPUs.
        name: name as the driver prints it; None for the model's.
        mig: whether MIG mode is on.
        mig_instances: GPU instances of each GPU, with their compute instances: "3g.40gb@4", a MIG
            profile and its first memory slice.
    """

    model: str
    count: int = 1
    name: str | None = None
    mig: bool = False
    mig_instances: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class HostDescription:
    """A simulated host.

    Attributes:
        name: short name; UUIDs are derived from it, so the same host always has the same UUIDs.
        gpus: in NVML's order.
        about: one sentence.
        numa_nodes: NUMA nodes; GPUs are spread over them in blocks.
        privileged: whether every user may change MIG; false refuses what needs root.
        cores: host cores, None for this machine's; simulated engines share this machine's real
            cores.
    """

    name: str
    gpus: tuple[GpuDescription, ...]
    about: str = ""
    numa_nodes: int = 1
    privileged: bool = True
    cores: int | None = None

    @property
    def count(self) -> int:
        """Total number of GPUs."""
        return sum(gpu.count for gpu in self.gpus)


def shipped_descriptions() -> dict[str, HostDescription]:
    """Return descriptions that come with partitiond, by name."""
    return {path.stem: read_description(path) for path in sorted(_SHIPPED.glob("*.json"))}


def find_description(name: str) -> HostDescription:
    """Return a shipped description by name, or the one in the file at that path.

    Raises:
        NotFoundError: the name is neither.
        SpecError: the file does not describe a host.
    """
    path = _SHIPPED / f"{name}.json"
    if "/" not in name and path.is_file():
        return read_description(path)
    if Path(name).is_file():
        return read_description(Path(name))
    known = ", ".join(sorted(p.stem for p in _SHIPPED.glob("*.json")))
    raise NotFoundError(
        f"There is no simulated host {name!r}.",
        hint=f"Name one of {known}, or a JSON file of your own.",
        facts={"name": name},
    )


def read_description(path: Path) -> HostDescription:
    """Read a description from its file.

    Raises:
        SpecError: the file cannot be read or does not describe a host.
    """
    hint = "Correct the file and try again."
    try:
        data = json.loads(content(path, hint, SpecError))
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path} cannot be read as JSON: {error}.", hint=hint) from error
    return validate(from_jsonable(HostDescription, data))


def validate(description: HostDescription) -> HostDescription:
    """Return the description if a host can be made of it.

    Raises:
        SpecError: no host can be made of it; the message tells why.
    """
    problem = next(iter(_problems(description)), None)
    if problem is not None:
        raise SpecError(
            f"The host {description.name!r} cannot be simulated: {problem}.",
            hint="Correct its description; docs/how-to/simulate.md has its fields.",
        )
    return description


def _problems(description: HostDescription) -> list[str]:
    found = []
    if not description.name or len(description.name) > 60:
        found.append("its name has to be 1 to 60 characters long")
    if not 1 <= description.count <= MAX_GPUS or any(g.count < 1 for g in description.gpus):
        found.append(f"it has to have 1 to {MAX_GPUS} GPUs")
    if not 1 <= description.numa_nodes <= _MAX_NUMA_NODES:
        found.append(f"numa_nodes has to be 1 to {_MAX_NUMA_NODES}")
    if description.cores is not None and not 1 <= description.cores <= MAX_CORES:
        found.append(f"cores has to be 1 to {MAX_CORES}")
    for gpu in description.gpus:
        found += _gpu_problems(gpu)
    return found


def _gpu_problems(gpu: GpuDescription) -> list[str]:
    if gpu.model not in MODELS:
        return [f"there is no model {gpu.model!r}; there are {', '.join(MODELS)}"]
    names = [str(fields["name"]) for fields in mig_profile_fields(gpu.model)]
    if gpu.mig and not names:
        return [f"{gpu.model} has no MIG"]
    if gpu.name is not None and not 1 <= len(gpu.name.encode()) <= _MAX_NAME_BYTES:
        return [f"a GPU's name has to be 1 to {_MAX_NAME_BYTES} bytes long"]
    if gpu.mig_instances and not gpu.mig:
        return ["mig_instances need mig to be true"]
    return [
        f"{text!r} is no GPU instance of {gpu.model}; write as {names[0]}@0"
        for text in gpu.mig_instances
        if parse_instance(text) is None or text.rpartition("@")[0] not in names
    ]


def parse_instance(text: str) -> tuple[str, int] | None:
    """Return MIG profile and first memory slice of "3g.40gb@4"; None if the text has neither."""
    name, at, start = text.rpartition("@")
    return (name, int(start)) if at and start in "01234567" and len(start) == 1 else None
