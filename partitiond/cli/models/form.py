"""Defines the options of `models add`, `models update` and `profile`: fields of a registration."""

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from partitiond.cli.form import OptionForm, Row
from partitiond.core.errors import InputError
from partitiond.fleet.registration import ModelBody
from partitiond.fleet.workloads import read_pairs
from partitiond.platform.bounded_files import content

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A catalog name (opt-125m), a Hugging Face id (org/name) or a local folder.",
    ),
]

DEFAULT_VARIATION: Final = 1.0
"""Variation of a lognormal without numbers: about that of recorded chat traffic."""
_VARIANT_ENGINE: Final = (
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "max_model_len",
    "max_num_batched_tokens",
)


def model_text(text: str) -> str:
    """A folder as an absolute path, because the daemon runs in another folder; else the text."""
    if text.startswith(("./", "../", "~")) or text in {".", ".."}:
        return str(Path(text).expanduser().absolute())
    return text


def lengths(text: str) -> dict[str, Any]:
    """The workload that --lengths names: a shape, or that of a profile or a trace.

    Raises:
        InputError: the file is neither trace nor profile.
    """
    if text == "lognormal":
        variations = ("prompt_variation", "output_variation")
        return {"shape": text, **dict.fromkeys(variations, DEFAULT_VARIATION)}
    if text == "fixed":
        return {"shape": text}
    path = Path(text).expanduser()
    hint = "`partitiond profile show --json` writes one; a trace is .csv or .jsonl."
    if path.suffix.lower() != ".json":
        return {"shape": "trace", "pairs": [list(pair) for pair in read_pairs(path)]}
    try:
        workload = dict(json.loads(content(path, hint))["workload"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is no profile.", hint=hint) from error
    if workload.get("pairs"):
        return {"shape": "trace", "pairs": workload["pairs"]}
    return {name: value for name, value in workload.items() if value}


def variants(texts: list[str]) -> list[dict[str, Any]]:
    """The variants, each written as name=fp8,quantization=fp8. Raises typer.BadParameter."""
    return [_variant(text) for text in texts]


def _variant(text: str) -> dict[str, Any]:
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


def parameters(texts: list[str]) -> dict[str, Any]:
    """Default parameters of requests, each written as NAME=VALUE. Raises InputError."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(
                f"--default {text!r} is not of the form NAME=VALUE.", hint="As temperature=0.2."
            )
        if name.strip() in found:
            raise InputError(f"--default names {name.strip()} twice.", hint="Give it once.")
        found[name.strip()] = _value(name.strip(), value.strip())
    return found


def _value(name: str, text: str) -> Any:
    """The value of the text if it is JSON (0.2, true, ["\\n"]), else the text as it is."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(
            f"--default {name}: the value is nested too deeply.",
            hint="Give a text, a number, a list or an object of them.",
        ) from error
    except ValueError:
        return text


MODEL: Final = OptionForm(
    ModelBody,
    Row("name", metavar="NAME"),
    Row("weights"),
    Row("hub", "--hub", about="Fetch from the Hugging Face hub even where a package would do."),
    Row(
        "workload",
        "--lengths",
        "fixed|lognormal|FILE",
        "How request lengths vary; FILE: recorded pairs (.csv, .jsonl) or a profile (.json).",
        lengths,
    ),
    Row("workload.prompt_tokens", metavar="N"),
    Row("workload.output_tokens", metavar="N"),
    Row("workload.prompt_variation", metavar="CV"),
    Row("workload.output_variation", metavar="CV"),
    Row("slo.ttft_seconds", "--ttft", "SECONDS"),
    Row("slo.tpot_seconds", "--tpot", "SECONDS"),
    Row("slo.quantile", metavar="SHARE"),
    Row("operating_point", "--point"),
    Row("demand.req_per_s", "--demand", "RATE"),
    Row("demand.burst_factor", metavar="FACTOR"),
    Row("demand.percentile", metavar="P"),
    Row("demand.window_seconds", "--window", "SECONDS"),
    Row("demand.weight", metavar="W"),
    Row("engine.dtype"),
    Row("engine.max_model_len", metavar="N"),
    Row("engine.quantization", metavar="HOW", nothing="none"),
    Row("engine.kv_cache_dtype"),
    Row("engine.max_num_batched_tokens", metavar="N"),
    Row("engine.extra_args", "--engine-arg", "FLAG"),
    Row("engine.sleep_mode"),
    Row("engine_kind"),
    Row("sleep_after_seconds", "--sleep-after", "SECONDS", zero=True),
    Row("autoscale"),
    Row("autoscale.scale_to_zero_seconds", "--scale-to-zero", "SECONDS", zero=True),
    Row(
        "variants",
        "--variant",
        "NAME...",
        "Another form that a plan may use, as name=fp8,quantization=fp8 or "
        "name=awq,source=org/repo",
        variants,
    ),
    Row("min_replicas", metavar="N"),
    Row("max_replicas", metavar="N"),
    Row("isolation"),
    Row("isolation_group", metavar="GROUP", nothing="none"),
    Row("rules.avoid", metavar="MODEL"),
    Row("rules.near", metavar="MODEL"),
    Row("rules.only_on", metavar="PLACE"),
    Row("rules.survive", nothing="none"),
    Row("rules.survive_share", metavar="SHARE"),
    Row("rules.priority", metavar="-2..2"),
    Row("aliases", "--alias", "NAME"),
    Row("request_defaults", "--default", "NAME=VALUE", read=parameters),
    Row("request_limits.max_prompt_bytes", metavar="N"),
    Row("request_limits.max_output_tokens", metavar="N"),
    Row("request_limits.max_sequences", metavar="N"),
    Row("allow_outage"),
    Row("auto"),
)
CHANGES: Final = MODEL.only(
    *(row.path for row in MODEL.rows if row.path not in {"name", "weights", "hub"})
)
MEASURED: Final = MODEL.only(
    *("weights", "hub", "engine_kind"),
    *(row.path for row in MODEL.rows if row.path.startswith(("workload", "slo.", "engine."))
      if row.path != "engine.sleep_mode"),
)  # fmt: skip
"""The form to measure, and the load to measure it under."""
