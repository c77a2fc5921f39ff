"""Lists the cases that a question contains, to check that the generator reaches them."""

from collections.abc import Iterator

from partitiond.core.hardware.kinds import SharingMode
from tests.oracle.truth import Question, all_loads, priorities


def seen_in(question: Question) -> set[str]:
    """What is in it."""
    return set(_of_devices(question)) | set(_of_models(question))


def _of_devices(question: Question) -> Iterator[str]:
    loads = all_loads(question)
    assert loads is not None
    for device, mine in zip(question.devices, loads, strict=True):
        if any(sum(n for _, n, _ in load.held) >= 4 for load in mine):
            yield "four replicas on a device"
        alone = {
            (m.model, c.capacity_req_per_s)
            for m in question.models
            for c in m.candidates
            if c.hardware == device.hardware
        }
        least = {name: min(float(r) for x, r in alone if x == name) for name, _ in alone}
        if any(
            float(rate) < n * least[name] * 0.999 for load in mine for name, n, rate in load.held
        ):
            yield "another level than 1"
    for host in {d.host for d in question.devices}:
        here = [k for k, d in enumerate(question.devices) if d.host == host]
        cores = [set(question.devices[k].cores) for k in here if question.devices[k].cores]
        wanted = sum(max(load.cores for load in loads[k]) for k in here)
        if len(cores) > 1 and wanted > len(set().union(*cores)):
            yield "cores of a host are divided"
        most = dict(question.host_memory_bytes).get(host)
        if most is not None and sum(max(x.host_bytes for x in loads[k]) for k in here) > most > 0:
            yield "memory of a host limits"
    if (
        len({d.hardware for d, mine in zip(question.devices, loads, strict=True) if len(mine) > 1})
        > 1
    ):
        yield "two kinds of GPU"


def _of_models(question: Question) -> Iterator[str]:
    for m in question.models:
        for name in ("avoid", "near", "only_on", "survive"):
            if getattr(m.rules, name):
                yield name
        if m.min_replicas and m.max_replicas:
            yield "a least and a largest number"
    under_mps = {
        m.isolation_group
        for m in question.models
        if any(c.size.mode is SharingMode.MPS for c in m.candidates)
    }
    if len(under_mps) > 1:
        yield "two isolation groups under MPS"
    if len(priorities(question.models)) > 1:
        yield "several priorities"
