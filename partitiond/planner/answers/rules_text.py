"""Puts placement rules in words: why they keep a model out, what a loss takes, unknown names."""

from collections.abc import Iterator

from partitiond.core.model.spec import FaultDomain
from partitiond.core.plan.record import ModelDemand
from partitiond.planner.model.needs import domain_name
from partitiond.planner.model.ties import names_of, unknown_places
from partitiond.planner.model.types import Instance, Need, PlanRequest
from partitiond.planner.pack.packing import Missing


def why_kept_out(instance: Instance, demand: ModelDemand) -> tuple[str, str] | None:
    """Return reason and remedy if the rules alone keep a model from having a replica; else None."""
    rules, name, devices = demand.rules, demand.model, instance.request.devices
    if rules.only_on:
        unknown = unknown_places(instance.request, demand)
        if len(unknown) == len(rules.only_on):
            known = sorted(set().union(*(names_of(device) for device in devices)))
            return (
                f"{name} may only be on {', '.join(rules.only_on)}, and no device, host, rack or "
                f"hardware is called that.",
                f"Name one of {', '.join(known[:8])}{', ...' * (len(known) > 8)} in only_on.",
            )
        kinds = {c.hardware for c in demand.candidates}
        allowed = [d for d in devices if not names_of(d).isdisjoint(rules.only_on)]
        if kinds and not kinds & {d.hardware for d in allowed}:
            return (
                f"{name} may only be on {', '.join(rules.only_on)}, and is profiled for "
                f"{', '.join(sorted(kinds))}, which is not there.",
                f"Profile {name} on {', '.join(sorted({d.hardware for d in allowed}))}, "
                f"or widen only_on.",
            )
    planned = {need.name for need in instance.needs}
    absent = [other for other in rules.near if other not in planned]
    if absent:
        other = absent[0]
        why, first = "is not among the models", f"Register {other}"
        if other in {m.model for m in instance.request.models}:
            why, first = "has no place itself", f"See to {other} first"
        return f"{name} must be near {other}, which {why}.", f"{first}, or take it out of near."
    return None


def what_is_lost(instance: Instance, need: Need, lack: Missing) -> str:
    """Return a sentence part: what is missing when the worst fault domain is lost; may be empty."""
    kind = instance.request.models[need.model].rules.survive
    if lack.domain is None or kind is None:
        return ""
    index = need.domain_of.index(lack.domain)
    where = " ".join(domain_name(instance.request.devices[index], kind))
    if need.rated:
        left = (need.survive_rate - lack.rate_if_lost) / need.units
        return (
            f"keeps {left:.4g} of {need.survive_rate / need.units:.4g} requests/s "
            f"when {where} is lost"
        )
    return f"has no replica left when {where} is lost"


def why_not_spread(instance: Instance, need: Need) -> str | None:
    """Return why no plan can survive a loss: too few fault domains hold the model; else None."""
    if not need.domain_of:
        return None
    # Groups that differ only in their host share what they hold.
    fits = {id(group.fits): group.fits for group in instance.groups}
    items, mine = instance.items, need.model
    holding = {k for k, f in fits.items() if any(items[i].model == mine for fit in f for i in fit)}
    domains = {
        need.domain_of[index]
        for group in instance.groups
        if id(group.fits) in holding
        for index in group.bins
    }
    kind = instance.request.models[need.model].rules.survive
    if len(domains) > 1 or kind is None:
        return None
    able = f"only one {kind}" if domains else "none"
    return f"it is to survive the loss of a {kind}, and {able} could hold it"


def how_to_survive(instance: Instance, need: Need) -> str:
    """Return what would let a model survive a loss that it does not survive."""
    kind = instance.request.models[need.model].rules.survive or FaultDomain.DEVICE
    where = "a device" if kind is FaultDomain.DEVICE else f"a device in another {kind}"
    share = " lower survive_share," if need.rated else ""
    return f"Add {where},{share} or take `survive` back."


def warnings(request: PlanRequest) -> Iterator[str]:
    """Yield sentences on rules that name something absent, if the rules do no harm by that."""
    asked = {m.model for m in request.models}
    for model in request.models:
        unknown = unknown_places(request, model)
        if unknown and len(unknown) < len(model.rules.only_on):
            yield f"{model.model}: only_on names {', '.join(unknown)}, which is not there."
        gone = [other for other in model.rules.avoid if other not in asked]
        if gone:
            yield f"{model.model}: avoid names {', '.join(gone)}, which is not registered."
