"""Turns the options of `models add` and `profile` into a registration (the API's body)."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from partitiond.cli.options import option
from partitiond.core.errors import InputError
from partitiond.core.model.spec import ModelSource
from partitiond.fleet.workloads import read_pairs

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A catalog name (opt-125m), a Hugging Face id (org/name) or a local folder.",
    ),
]
EngineKindOption = Annotated[
    str | None, typer.Option("--engine-kind", metavar="vllm|simulated", help="Engine [vllm].")
]

EngineArgOption = Annotated[
    list[str] | None,
    typer.Option("--engine-arg", metavar="FLAG", help="Further engine flag; repeatable."),
]

DEFAULT_VARIATION = 1.0
"""Variation of a lognormal without numbers: about that of recorded chat traffic."""


@dataclasses.dataclass(frozen=True, slots=True)
class GivenSource:
    """The options for the files of a model."""

    weights: str | None = option(
        "dummy: random weights of the true architecture; true speed, meaningless answers.",
        metavar="real|dummy",
    )
    hub: bool = option("Fetch from the Hugging Face hub even where a package would do.")

    def body(self) -> dict[str, Any]:
        """The part of a registration."""
        return {"weights": self.weights, "hub": self.hub or None}


@dataclasses.dataclass(frozen=True, slots=True)
class GivenLengths:
    """The options for the mean lengths of requests."""

    prompt_tokens: int | None = option("Mean prompt length in tokens [512].", metavar="N")
    output_tokens: int | None = option("Mean output length in tokens [256].", metavar="N")


@dataclasses.dataclass(frozen=True, slots=True)
class GivenLoad(GivenLengths):
    """The options for the lengths of requests and for their SLO."""

    lengths: str | None = option(
        "How request lengths vary; FILE: recorded pairs (.csv, .jsonl) or a profile (.json).",
        metavar="fixed|lognormal|FILE",
    )
    prompt_variation: float | None = option(
        "Lognormal prompts: standard deviation over mean.", metavar="CV"
    )
    output_variation: float | None = option(
        "Lognormal outputs: standard deviation over mean.", metavar="CV"
    )
    ttft: float | None = option("SLO: seconds to the first token.", metavar="SECONDS")
    tpot: float | None = option("SLO: seconds per further token.", metavar="SECONDS")
    quantile: float | None = option(
        "SLO: share of requests that must hold [0.95].", metavar="SHARE"
    )

    def load_body(self) -> dict[str, Any]:
        """The parts of a registration; those that were not given are empty."""
        workload = lengths_body(
            self.lengths,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            prompt_variation=self.prompt_variation,
            output_variation=self.output_variation,
        )
        return {"workload": workload, "slo": slo_body(self.ttft, self.tpot, self.quantile)}


@dataclasses.dataclass(frozen=True)
class GivenContext:
    """The options for the precision and the context of an engine."""

    dtype: str | None = option(
        "bfloat16, float16, float32, auto: what the device has [auto].", metavar="TYPE"
    )
    max_model_len: int | None = option("Longest context in tokens.", metavar="N")

    def engine_body(self, **more: Any) -> dict[str, Any]:
        """The part of a registration for the engine, with further fields that were given."""
        return without_empty({"dtype": self.dtype, "max_model_len": self.max_model_len, **more})


@dataclasses.dataclass(frozen=True)
class GivenForm:
    """The options for the form in which an engine runs a model."""

    quantization: str | None = option("Quantise the weights while loading, as fp8.", metavar="HOW")
    kv_cache_dtype: str | None = option("Precision of the KV cache [auto].", metavar="auto|fp8")
    max_num_batched_tokens: int | None = option(
        "Tokens of one engine step [2048].", min=16, metavar="N"
    )


def model_text(text: str) -> str:
    """A folder as an absolute path, because the daemon runs in another folder; else the text."""
    if text.startswith(("./", "../", "~")) or text in {".", ".."}:
        return str(Path(text).expanduser().absolute())
    return text


def without_empty(values: dict[str, Any]) -> dict[str, Any]:
    """The values that were given and hold something; the others keep their defaults."""
    return {
        key: value
        for key, value in values.items()
        if value is not None and value not in ({}, [], ())
    }


def slo_body(
    ttft: float | None, tpot: float | None, quantile: float | None
) -> dict[str, Any] | None:
    """The SLO part, or None; both bounds belong together.

    Raises:
        typer.BadParameter: one of the two bounds is missing.
    """
    if ttft is None and tpot is None:
        if quantile is not None:
            raise typer.BadParameter("--quantile needs --ttft and --tpot beside it.")
        return None
    if ttft is None or tpot is None:
        raise typer.BadParameter("an SLO needs both --ttft and --tpot, in seconds.")
    return without_empty({"ttft_seconds": ttft, "tpot_seconds": tpot, "quantile": quantile})


def source_at(source: ModelSource, revision: str) -> dict[str, Any]:
    """A source in full, at another revision."""
    return {"kind": source.kind.value, "ref": source.ref, "revision": revision or None}


_VARIANT_ENGINE = (
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "max_model_len",
    "max_num_batched_tokens",
)


def variant_bodies(texts: list[str] | None) -> list[dict[str, Any]] | None:
    """The variants part; None if no variants were given, empty for "none".

    Raises:
        typer.BadParameter: a text is not of the form name=...,key=value.
    """
    if not texts:
        return None
    return [] if texts == ["none"] else [_variant_body(text) for text in texts]


def _variant_body(text: str) -> dict[str, Any]:
    body: dict[str, Any] = {"engine": {}}
    for part in text.split(","):
        key, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator or not value:
            raise typer.BadParameter(
                f"--variant {text!r}: {part!r} is not key=value; write name=fp8,quantization=fp8."
            )
        if key == "name":
            body["name"] = value
        elif key == "source":
            body["model"] = model_text(value)
        elif key in _VARIANT_ENGINE:
            body["engine"][key] = int(value) if value.isascii() and value.isdigit() else value
        else:
            raise typer.BadParameter(
                f"--variant {text!r}: there is no {key!r}; "
                f"use name, source, {', '.join(_VARIANT_ENGINE)}."
            )
    if "name" not in body:
        raise typer.BadParameter(f"--variant {text!r} has no name; write name=fp8,...")
    return body


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
            hint="`partitiond profile show --json` writes one; a trace is .csv or .jsonl.",
        ) from error
    if workload.get("pairs"):
        return {"shape": "trace", "pairs": workload["pairs"]}
    return {name: value for name, value in workload.items() if value}


def autoscale_body(autoscale: bool | None, to_zero: float | None) -> dict[str, Any]:
    """The part about scaling, as {"autoscale": ...}; empty if no option was given."""
    if autoscale is False:
        if to_zero:
            raise typer.BadParameter("--scale-to-zero and --no-autoscale exclude each other.")
        return {"autoscale": None}
    if to_zero is not None:
        return {"autoscale": {"scale_to_zero_seconds": to_zero or None}}
    return {"autoscale": {}} if autoscale else {}
