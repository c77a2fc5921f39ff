"""Defines the options of `partitiond profile`, and turns its lengths into a workload."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from partitiond.core.errors import InputError
from partitiond.fleet.workloads import read_pairs

CoresOption = Annotated[
    int | None,
    typer.Option("--cores", min=1, metavar="N", help="Cores of the partition (CPU device)."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="DEVICE", help="Id of the device; no other like it will do [any]."
    ),
]
MaxBatchOption = Annotated[
    int | None,
    typer.Option("--max-batch", min=1, metavar="N", help="Largest batch of the sweep."),
]
TimeLimitOption = Annotated[
    float | None,
    typer.Option("--time-limit", min=1, metavar="SECONDS", help="Longest time of the sweep."),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Memory of the partition, as 12GiB; on a GPU it makes a memory share.",
    ),
]
MpsOption = Annotated[
    int | None,
    typer.Option(
        "--mps",
        min=1,
        max=100,
        metavar="PERCENT",
        help="Measure in an MPS share with so much of the SMs (GPU).",
    ),
]
MigOption = Annotated[
    str | None,
    typer.Option("--mig", metavar="PROFILE", help="Measure in a MIG slice, as 2g.20gb (GPU)."),
]
SeedOption = Annotated[
    int,
    typer.Option("--seed", min=0, metavar="N", show_default=False, help="Seed of the load [0]."),
]
LengthsOption = Annotated[
    str | None,
    typer.Option(
        "--lengths",
        metavar="fixed|lognormal|FILE",
        help="How request lengths vary; FILE: recorded pairs (.csv, .jsonl) or a profile (.json).",
    ),
]
PromptVariationOption = Annotated[
    float | None,
    typer.Option(
        "--prompt-variation",
        metavar="CV",
        help="Lognormal prompts: standard deviation over mean.",
    ),
]
OutputVariationOption = Annotated[
    float | None,
    typer.Option(
        "--output-variation",
        metavar="CV",
        help="Lognormal outputs: standard deviation over mean.",
    ),
]
VariantOption = Annotated[
    str | None,
    typer.Option("--variant", metavar="NAME", help="Measure this variant of the model."),
]
StepTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-num-batched-tokens", min=16, metavar="N", help="Tokens of one engine step [2048]."
    ),
]
KvDtypeOption = Annotated[
    str | None,
    typer.Option("--kv-cache-dtype", metavar="auto|fp8", help="Precision of the KV cache [auto]."),
]
QuantizationOption = Annotated[
    str | None,
    typer.Option(
        "--quantization", metavar="HOW", help="Quantise the weights while loading, as fp8."
    ),
]
StructuredOption = Annotated[
    bool,
    typer.Option("--structured-output", help="Constrain answers to a small JSON schema."),
]
NoConfirmOption = Annotated[
    bool,
    typer.Option(
        "--no-confirm", help="Leave out the second start that confirms memory and capacity."
    ),
]
PaperOption = Annotated[
    int,
    typer.Option(
        "--paper-requests",
        min=0,
        max=10_000,
        metavar="N",
        show_default=False,
        hidden=True,  # only for reproducing the paper; serving models does not need it
        help="Also send N requests at once, as the paper does.",
    ),
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Begin anew: leave an interrupted profile's trials alone.")
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Also draw it (.png or .svg).")
]

DEFAULT_VARIATION = 1.0
"""Variation of a lognormal without numbers: about that of recorded chat traffic."""


def lengths_body(
    lengths: str | None,
    *,
    prompt_tokens: int | None,
    output_tokens: int | None,
    prompt_variation: float | None,
    output_variation: float | None,
) -> dict[str, Any]:
    """The workload part of a registration, with only the given values.

    Raises:
        InputError: the options contradict each other, or the file is neither trace nor profile.
    """
    means = {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
    variations = {"prompt_variation": prompt_variation, "output_variation": output_variation}
    given = {name: value for name, value in (means | variations).items() if value is not None}
    varies = prompt_variation is not None or output_variation is not None
    if lengths is None or lengths in {"fixed", "lognormal"}:
        if lengths == "fixed" and varies:
            raise InputError("fixed lengths do not vary.", hint="Leave the variations out.")
        if lengths == "lognormal" and not varies:
            variation = DEFAULT_VARIATION
            given |= {"prompt_variation": variation, "output_variation": variation}
        return given | ({"shape": lengths} if lengths else {})
    if given:
        raise InputError(
            "the lengths of a trace say everything about the lengths.",
            hint="Leave --prompt-tokens, --output-tokens and the variations out.",
        )
    return _from_file(Path(lengths).expanduser())


def _from_file(path: Path) -> dict[str, Any]:
    """The workload of a profile, or the pairs of a trace."""
    if path.suffix.lower() != ".json":
        return {"shape": "trace", "pairs": [list(pair) for pair in read_pairs(path)]}
    try:
        workload = dict(json.loads(path.read_bytes())["workload"])
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}.", hint="Check the path."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no profile.",
            hint="`partitiond profile export` writes one; a trace is .csv or .jsonl.",
        ) from error
    if workload.get("pairs"):
        return {"shape": "trace", "pairs": workload["pairs"]}
    return {name: value for name, value in workload.items() if value}
