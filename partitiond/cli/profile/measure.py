"""Implements `partitiond profile MODEL`: a job of the daemon, shown to its end."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partitiond.cli.models import form
from partitiond.cli.options import (
    JsonOption,
    check_time_limit,
    client_of,
    memory_bytes,
    option,
    spread,
)
from partitiond.cli.output import emit, err, say
from partitiond.cli.profile.table import profile_table
from partitiond.cli.waiting import wait_for_job
from partitiond.core.errors import ConflictError, NotFoundError, PartitiondError, SpecError
from partitiond.core.model.spec import ModelSpec, SourceKind
from partitiond.core.profile.jobs import ProfileOptions
from partitiond.core.profile.record import Profile
from partitiond.fleet.workloads import changed_workload

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient


@spread
def profile(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A registered model, a catalog name, a Hugging Face id or a local folder.",
        ),
    ],
    *,
    given: Any = form.MEASURED,
    variant: str | None = option("Measure this variant of the model.", metavar="NAME"),
    device: str | None = option(
        "Id of the device; no other like it will do [any].", metavar="DEVICE"
    ),
    cores: int | None = option("Cores of the partition (CPU device).", min=1, metavar="N"),
    memory: str | None = option(
        "Memory of the partition, as 12GiB; on a GPU it makes a memory share.", metavar="SIZE"
    ),
    mps: int | None = option(
        "Measure in an MPS share with so much of the SMs (GPU).", min=1, max=100, metavar="PERCENT"
    ),
    mig: str | None = option("Measure in a MIG slice, as 2g.20gb (GPU).", metavar="PROFILE"),
    max_batch: int | None = option("Largest batch of the sweep.", min=1, metavar="N"),
    time_limit: float | None = option("Longest time of the sweep.", min=1, metavar="SECONDS"),
    no_confirm: bool = option("Leave out the second start that confirms memory and capacity."),
    paper_requests: int = option(
        "Also send N requests at once, as the paper does.",
        default=0,
        min=0,
        max=10_000,
        metavar="N",
        show_default=False,
        hidden=True,  # only for reproducing the paper; serving models does not need it
    ),
    seed: int = option("Seed of the load [0].", default=0, min=0, metavar="N", show_default=False),
    as_json: JsonOption = False,
) -> None:
    """Measure where a model stops getting faster.

    Prints throughput and latency by batch size, the frontier and the knee, and confirms on a
    second start the memory and the request rate the knee holds.

    This is a job of the daemon. A model that is not registered is registered first (without
    --auto). Without a hub, --weights dummy measures the true architecture.

    A GPU is measured whole, unless --memory, --mps or --mig ask for a share of it. Plans derive
    shares from the whole by themselves; measuring one makes them surer.
    """
    check_time_limit(time_limit)
    engine = given.pop("engine", {})
    kv_cache_dtype = engine.pop("kv_cache_dtype", None)
    max_num_batched_tokens = engine.pop("max_num_batched_tokens", None)
    body = {"model": form.model_text(model), "auto": False, **given, **_forms(variant, engine)}
    options = ProfileOptions(
        device_id=device,
        cores=cores,
        max_batch=max_batch,
        time_limit_seconds=time_limit,
        memory_bytes=memory_bytes(memory),
        seed=seed,
        variant=variant or "",
        max_num_batched_tokens=max_num_batched_tokens,
        kv_cache_dtype=kv_cache_dtype,
        confirm=not no_confirm,
        paper_requests=paper_requests,
        sm_percent=mps,
        mig_profile=(mig or "").strip().lower(),
    )
    with client_of(ctx) as client:
        found = measure(client, model, body, options)
    emit(found, as_json=as_json, render=lambda: profile_table(found))


def _forms(variant: str | None, engine: dict[str, Any]) -> dict[str, Any]:
    """Return the form to measure: the model with these engine options, or a variant with them."""
    if not variant:
        return {"engine": engine}
    quantised = {"quantization": engine.pop("quantization")} if "quantization" in engine else {}
    return {"engine": engine, "variants": [{"name": variant, "engine": quantised}]}


def check_variant(body: dict[str, Any], options: ProfileOptions) -> None:
    """Check that a variant of an unregistered model is defined, not only named.

    Raises:
        SpecError: no option makes the variant different from the model itself.
    """
    told = [variant for variant in body.get("variants", ()) if variant["engine"]]
    changed = options.kv_cache_dtype not in {None, "auto"} or options.max_num_batched_tokens
    if options.variant and not told and not changed:
        raise SpecError(
            f"nothing says what the variant {options.variant!r} of {body['model']} is.",
            hint="Give --quantization, --kv-cache-dtype or --max-num-batched-tokens beside it; "
            "for other files (as awq) profile those: partitiond profile ORG/NAME. Of a model "
            "registered with variants the daemon knows them.",
            facts={"variant": options.variant},
        )


def measure(
    client: "ControlClient", model: str, body: dict[str, Any], options: ProfileOptions
) -> Profile:
    """Register the model if needed, run the job with visible progress, and fetch the profile."""
    name, options = as_registered(client, model, body, options)
    job = client.profile(name, options)
    say(f"{name}: profile job {job.id}")
    done = wait_for_job(client, job.id, err())
    if done.result is None:
        raise PartitiondError(
            f"job {done.id} made no profile.", hint="`partitiond events` says what happened."
        )
    return client.profile_by_id(done.result)


def as_registered(
    client: "ControlClient", model: str, body: dict[str, Any], options: ProfileOptions
) -> tuple[str, ProfileOptions]:
    """Return the name of the model, registered now if needed, and the options to measure with.

    Lengths other than the registered model's are measured without changing the model.

    Raises:
        ConflictError: the model is registered with other options than those given.
    """
    try:
        spec = client.model(model).record.spec
    except NotFoundError:
        check_variant(body, options)
        record = client.register(body)
        say(f"{record.spec.name} is registered (without --auto).")
        return record.spec.name, options
    different = differences(spec.as_variant(options.variant), body)
    if different:
        raise ConflictError(
            f"{spec.name} is registered otherwise: {', '.join(different)}.",
            hint=f"Leave these options out, or change the model first: partitiond models update "
            f"{spec.name}. Weights and source need `partitiond models remove`.",
        )
    workload = changed_workload(spec.workload, body.get("workload", {}))
    if workload == spec.workload:
        return spec.name, options
    say(f"{spec.name} is registered for {spec.workload.key}; measuring {workload.key} beside it.")
    return spec.name, dataclasses.replace(options, workload=workload)


def differences(spec: ModelSpec, body: dict[str, Any]) -> list[str]:
    """Return the given options that differ from the registered model, with both values."""
    engine = dict(body.get("engine", {}))
    for variant in body.get("variants", ()):
        engine |= variant["engine"]
    slo = body.get("slo", {})
    bounds = spec.slo
    from_package = spec.source.kind is SourceKind.PACKAGE
    options = (
        ("--weights", body.get("weights"), spec.weights.value),
        ("--hub", body.get("hub"), False if from_package else None),
        ("--ttft", slo.get("ttft_seconds"), bounds.ttft_seconds if bounds else "none"),
        ("--tpot", slo.get("tpot_seconds"), bounds.tpot_seconds if bounds else "none"),
        ("--quantile", slo.get("quantile"), bounds.quantile if bounds else "none"),
        ("--dtype", engine.get("dtype"), spec.engine.dtype),
        ("--max-model-len", engine.get("max_model_len"), spec.max_model_len),
        ("--quantization", engine.get("quantization"), spec.engine.quantization or "none"),
        ("--engine-arg", engine.get("extra_args"), list(spec.engine.extra_args)),
        ("--engine-kind", body.get("engine_kind"), spec.engine_kind),
    )
    found = []
    for name, wanted, registered in options:
        if wanted is None or registered is None or wanted == registered:
            continue
        if wanted is True:
            found.append(f"{name} (its files come from a package)")
        else:
            found.append(f"{name} {wanted or repr(wanted)} (registered: {registered})")
    return found
