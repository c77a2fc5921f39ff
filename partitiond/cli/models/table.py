"""Draws one model as registered: a line for each part of its registration."""

import json

from rich.console import RenderableType

from partitiond.cli.columns import fields, time_text
from partitiond.cli.options import limits_text
from partitiond.cli.tables import duration
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import Demand, ModelSpec, Variant
from partitiond.core.units import format_duration


def record_table(record: ModelRecord) -> RenderableType:
    """Draw one model, with a line for each part of its registration."""
    spec = record.spec
    slo = "none"
    if spec.slo is not None:
        slo = (
            f"TTFT <= {duration(spec.slo.ttft_seconds)}, TPOT <= "
            f"{duration(spec.slo.tpot_seconds)} for {spec.slo.quantile:.0%} of requests"
        )
    upper = "no limit" if spec.max_replicas is None else str(spec.max_replicas)
    rows = (
        ("name", spec.name),
        ("source", f"{spec.source.kind.value} {spec.source.ref} {spec.source.revision or ''}"),
        ("weights", spec.weights.value),
        ("workload", f"{spec.workload.key} tokens"),
        ("SLO", slo),
        ("demand", demand_text(spec.demand)),
        ("operating point", spec.operating_point.value),
        ("engine", _engine_text(spec)),
        ("variants", "; ".join(_variant_text(v) for v in spec.variants) or "none"),
        ("replicas", f"at least {spec.min_replicas}, at most {upper}"),
        ("placement", placement_text(spec)),
        ("sleeps", _sleep_text(spec)),
        ("outage", "allowed" if spec.allow_outage else "never, where old and new do not fit"),
        ("aliases", ", ".join(spec.aliases) or "none"),
        ("defaults", defaults_text(spec)),
        ("request limits", limits_text(spec.request_limits)),
        ("auto", "yes" if spec.auto else "no"),
        ("version", f"{record.version}, changed {time_text(record.updated_at)}"),
    )
    return fields((field, value.strip()) for field, value in rows)


def _sleep_text(spec: ModelSpec) -> str:
    if spec.sleep_after_seconds is not None:
        return f"after {format_duration(spec.sleep_after_seconds)} without a request"
    return "when asked" if spec.engine.sleep_mode else "never"


def _engine_text(spec: ModelSpec) -> str:
    options = spec.engine
    parts = [spec.engine_kind, options.dtype, f"context {spec.max_model_len}"]
    if options.quantization:
        parts.append(f"quantised to {options.quantization}")
    if options.kv_cache_dtype != "auto":
        parts.append(f"{options.kv_cache_dtype} KV cache")
    if options.max_num_batched_tokens is not None:
        parts.append(f"{options.max_num_batched_tokens} tokens a step")
    if options.sleep_mode:
        parts.append("can sleep")
    return ", ".join(parts)


def _variant_text(variant: Variant) -> str:
    engine = variant.engine
    kv = f"{engine.kv_cache_dtype} KV cache" if engine.kv_cache_dtype != "auto" else ""
    source = f"from {variant.source.ref}" if variant.source is not None else ""
    parts = [part for part in (engine.quantization, kv, source) if part]
    return f"{variant.name} ({', '.join(parts)})" if parts else variant.name


def demand_text(demand: Demand) -> str:
    """The demand in words, with the rate that is planned for it."""
    planned = demand.planned_req_per_s
    if demand.req_per_s is None or planned is None:
        return "as much as there is"
    text = f"{demand.req_per_s:.4g} requests/s"
    if demand.burst_factor != 1:
        text += f", bursts of {demand.burst_factor:g} times that"
    if demand.percentile is not None:
        text += f", percentile {demand.percentile:g} of {demand.window_seconds:g} s"
    return text if planned == demand.req_per_s else f"{text}: planned for {planned:.4g}"


def placement_text(spec: ModelSpec) -> str:
    """Isolation and placement rules in words."""
    rules, parts = spec.rules, []
    if spec.isolation != "shared":
        parts.append(f"isolation {spec.isolation}")
    if spec.isolation_group:
        parts.append(f"isolation group {spec.isolation_group}")
    parts += [
        f"{word} {', '.join(names)}"
        for word, names in (
            ("never beside", rules.avoid),
            ("on hosts of", rules.near),
            ("only on", rules.only_on),
        )
        if names
    ]
    if rules.survive is not None:
        share = "" if rules.survive_share == 1 else f" with {rules.survive_share:.0%} of the rate"
        parts.append(f"survives the loss of any {rules.survive}{share}")
    if rules.priority:
        parts.append(f"priority {rules.priority:+d}")
    return "; ".join(parts) or "anywhere"


def defaults_text(spec: ModelSpec) -> str:
    """Default parameters on one line."""
    return (
        ", ".join(f"{name}={json.dumps(value)}" for name, value in spec.request_defaults.items())
        or "none"
    )
