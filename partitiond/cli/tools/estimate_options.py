"""Defines the options of `partitiond tools estimate` and `partitiond tools transfer`."""

from pathlib import Path
from typing import Annotated

import typer

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A catalog name, a local folder, or a path to a config.json."
    ),
]
HardwareOption = Annotated[
    str | None,
    typer.Option(
        "--hardware",
        metavar="NAME",
        help="As a100-40gb, l4, t4, a100-40gb:1g.5gb; 'cpu' measures this host's CPU.",
    ),
]
CompareOption = Annotated[
    str | None,
    typer.Option("--compare", metavar="A,B,...", help="Several kinds, side by side."),
]
PromptOption = Annotated[int, typer.Option("--prompt-tokens", help="Mean prompt.")]
OutputOption = Annotated[int, typer.Option("--output-tokens", help="Mean output.")]
PromptVariationOption = Annotated[
    float,
    typer.Option("--prompt-variation", help="Lognormal prompts: standard deviation over mean."),
]
OutputVariationOption = Annotated[
    float, typer.Option("--output-variation", help="The same of outputs.")
]
FractionOption = Annotated[
    float,
    typer.Option("--memory-fraction", help="Of the device memory, for all engines together."),
]
SloTtftOption = Annotated[
    float | None,
    typer.Option("--slo-ttft", metavar="SECONDS", help="Bound on the time to first token."),
]
SloTpotOption = Annotated[
    float | None,
    typer.Option("--slo-tpot", metavar="SECONDS", help="Bound on the time per output token."),
]
DtypeOption = Annotated[
    str,
    typer.Option("--dtype", help="bfloat16, float16, float32; auto: what the hardware has."),
]
QuantizationOption = Annotated[
    str,
    typer.Option("--quantization", help="While loading, as fp8 or fp8_per_block; vLLM's names."),
]
KvDtypeOption = Annotated[str, typer.Option("--kv-cache-dtype", help="auto or fp8.")]
MaxLenOption = Annotated[
    int | None,
    typer.Option("--max-model-len", min=1, help="Context; default from the workload."),
]
SmOption = Annotated[
    int | None,
    typer.Option("--sm-percent", min=1, max=100, help="An MPS share of the SMs."),
]
MigOption = Annotated[
    str | None, typer.Option("--mig", metavar="NAME", help="A MIG slice, as 1g.5gb.")
]
CoresOption = Annotated[int | None, typer.Option("--cores", min=1, help="Of a CPU; default all.")]
PricesOption = Annotated[
    Path | None,
    typer.Option(
        "--prices",
        metavar="FILE",
        help="TOML: a table [price_per_hour] with a number for each hardware name, and "
        'optionally currency = "...". None are shipped.',
    ),
]
MeasureOption = Annotated[
    bool, typer.Option("--measure", help="Measure the CPU again instead of reusing figures.")
]

ProfilesArgument = Annotated[
    list[str],
    typer.Argument(metavar="PROFILE...", help="Measured profiles: files, or ids."),
]
OtherModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Another model, as `tools estimate` takes it."),
]
OtherPromptOption = Annotated[
    int | None, typer.Option("--prompt-tokens", help="Another mean prompt.")
]
OtherOutputOption = Annotated[
    int | None, typer.Option("--output-tokens", help="Another mean output.")
]
MemoryOption = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="Of the partition, as 6GiB.")
]
SourceConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--source-config",
        metavar="FILE",
        help="config.json of the measured model, where the catalog does not know it.",
    ),
]
FileOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the profile here.")
]
ImportOption = Annotated[bool, typer.Option("--import", help="Give it to the daemon, for plans.")]
