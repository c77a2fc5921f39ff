"""Implements `partitiond tools estimate`: predicts a model on a device without measuring it."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import typer

from partitiond.cli.models.configs import architecture_for
from partitiond.cli.options import JsonOption, option, settings_of, spread
from partitiond.cli.output import emit
from partitiond.cli.tools.estimate_view import comparison_table, estimate_table
from partitiond.core.errors import InputError, SpecError
from partitiond.core.hardware.kinds import HardwareSpec, SharingMode
from partitiond.core.hardware.lookup import find_hardware, mig_profile
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.recognised import recognised
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, Slo, SourceKind
from partitiond.core.performance import comparison
from partitiond.core.performance.estimate import hardware_of
from partitiond.core.performance.estimate_report import EstimateReport, estimate_report
from partitiond.devices.cpu import discover_cpu
from partitiond.fleet.registration import suggested_name
from partitiond.fleet.workloads import workload_of

NO_BOUND_SECONDS = 86400.0
"""Stands for the missing bound of an SLO that names only one."""


@spread
def estimate(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A catalog name or hub id, a folder, or a path to a config.json."
        ),
    ],
    *,
    hardware: str | None = option(
        "As a100-40gb, l4, t4, a100-40gb:1g.5gb; 'cpu' is this host's CPU.", metavar="NAME"
    ),
    compare: str | None = option("Several kinds, side by side.", metavar="A,B,..."),
    prompt_tokens: int | None = option("Mean prompt."),
    output_tokens: int | None = option("Mean output."),
    prompt_variation: float = option(
        "Lognormal prompts: standard deviation over mean.", default=0.0
    ),
    output_variation: float = option("The same of outputs.", default=0.0),
    memory_fraction: float = option("Of the device memory, for all engines together.", default=0.9),
    slo_ttft: float | None = option("Bound on the time to first token.", metavar="SECONDS"),
    slo_tpot: float | None = option("Bound on the time per output token.", metavar="SECONDS"),
    dtype: str = option("bfloat16, float16, float32; auto: what the hardware has.", default="auto"),
    quantization: str = option("While loading, as fp8 or fp8_per_block; vLLM's names.", default=""),
    kv_cache_dtype: str = option("auto or fp8.", default="auto"),
    max_model_len: int | None = option("Context; default from the workload.", min=1),
    sm_percent: int | None = option("An MPS share of the SMs.", min=1, max=100),
    mig: str | None = option("A MIG slice, as 1g.5gb.", metavar="NAME"),
    cores: int | None = option("Of a CPU; default all.", min=1),
    as_json: JsonOption = False,
) -> None:
    """Estimate a model on a device, without one.

    Memory, the roofline's throughput by batch, and how many replicas fit. Needs no daemon, no
    engine and no network. An estimate is what the hardware's figures allow, not a measurement.
    """
    if (hardware is None) == (compare is None):
        raise InputError(
            "give either --hardware or --compare.",
            hint="As --hardware a100-40gb, or --compare a100-40gb,l4,t4.",
        )
    name, architecture = architecture_for(model)
    written = ModelSpec(
        suggested_name(name, "model"),
        ModelSource(SourceKind.CONFIG, name),
        workload=workload_of(
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            prompt_variation=prompt_variation,
            output_variation=output_variation,
        ),
        slo=slo_of(slo_ttft, slo_tpot),
        engine=EngineOptions(
            dtype=dtype,
            max_model_len=max_model_len,
            quantization=quantization,
            kv_cache_dtype=kv_cache_dtype,
        ),
    )
    spec = recognised(written, {"": architecture})
    where = _Where(ctx, sm_percent, mig, cores)

    def estimated(kind: HardwareSpec, size: PartitionSize) -> EstimateReport:
        return estimate_report(spec, architecture, kind, size, memory_fraction)

    if compare is not None:
        kinds = where.kinds(compare)
        options = comparison.compare([(kind, estimated(kind, size)) for kind, size in kinds])
        result = {
            "model": spec.name,
            "workload": spec.workload.key,
            "slo": spec.slo,
            "devices": options,
        }
        emit(result, as_json=as_json, render=lambda: comparison_table(spec, options))
        return
    assert hardware is not None
    report = estimated(*where.hardware(hardware))
    emit(report, as_json=as_json, render=lambda: estimate_table(report, spec.slo))


def slo_of(ttft: float | None, tpot: float | None) -> Slo | None:
    """Return the SLO of two optional bounds; None without either. Raises SpecError."""
    if ttft is None and tpot is None:
        return None
    return Slo(
        NO_BOUND_SECONDS if ttft is None else ttft, NO_BOUND_SECONDS if tpot is None else tpot
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Where:
    """The hardware options of one run."""

    ctx: typer.Context
    sm_percent: int | None
    mig: str | None
    cores: int | None

    def kinds(self, names: str) -> Sequence[tuple[HardwareSpec, PartitionSize]]:
        """Return each hardware of a list of names once. Raises InputError, SpecError."""
        asked = [self.hardware(name) for name in names.split(",") if name.strip()]
        if not asked:
            raise InputError("--compare names no hardware.", hint="As --compare a100-40gb,l4,t4.")
        return list({(spec.key, size.key): (spec, size) for spec, size in asked}.values())

    def hardware(self, text: str) -> tuple[HardwareSpec, PartitionSize]:
        """Return the hardware of a name, and the partition of it that the options ask for.
        Raises SpecError, DeviceError.
        """
        if text.strip().lower() == "cpu":
            return self._cpu()
        spec, found = find_hardware(text)
        if self.mig is not None and found is not None:
            raise SpecError(
                f"{text} names a MIG slice, and --mig names another.", hint="Give one of them."
            )
        if self.mig is not None:
            found = mig_profile(spec, self.mig.strip().lower())
        if self.cores is not None:
            raise SpecError("--cores is for --hardware cpu.", hint="Leave it out for a GPU.")
        if found is not None and self.sm_percent is not None:
            raise SpecError(
                "a MIG slice and an SM percentage do not go together.",
                hint="MPS inside MIG slices is not planned for: use one of them.",
            )
        if found is not None:
            return spec, PartitionSize(SharingMode.MIG, 1, 100, found.name)
        if self.sm_percent is not None:
            return spec, PartitionSize(SharingMode.MPS, 1, self.sm_percent)
        return spec, PartitionSize(SharingMode.WHOLE, 1, 100)

    def _cpu(self) -> tuple[HardwareSpec, PartitionSize]:
        if self.mig is not None or self.sm_percent is not None:
            raise SpecError(
                "a CPU has neither MIG slices nor SMs.", hint="Use --cores for a part of it."
            )
        device = discover_cpu(settings_of(self.ctx).cpu.cores)
        cores = len(device.cores) if self.cores is None else self.cores
        if cores > len(device.cores):
            raise SpecError(
                f"this host has {len(device.cores)} cores for engines, {cores} were asked for.",
                hint=f"Ask for 1 to {len(device.cores)}.",
            )
        return hardware_of(device), PartitionSize(SharingMode.CORES, cores)
