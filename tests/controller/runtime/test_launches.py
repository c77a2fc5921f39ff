"""A placement becomes the launch of an engine."""

import dataclasses
from pathlib import Path

from partitiond.controller.runtime.launches import (
    cores_for,
    engine_name,
    launch_for,
    max_num_batched_tokens,
    on_same_host,
)
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import MemoryShare, MpsShare, Partition
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import EngineOptions
from partitiond.core.model.workload import Workload
from partitiond.core.plan.record import Placement
from partitiond.core.replica.leases import Lease, lent_there
from partitiond.core.units import GIB, Bytes
from tests.controller.samples import ARCHITECTURE, cpu, placement, spec
from tests.devices.fake import fake_gpus


def resolved() -> ResolvedModel:
    return ResolvedModel(spec("a"), Path("/models/a"), None, ARCHITECTURE, dummy_weights=True)


def on(gpu: Device, cores: int = 1, partition: Partition | None = None) -> Placement:
    """A replica on this GPU, with so many host cores beside it."""
    one = placement("a-1")
    candidate = dataclasses.replace(
        one.candidate, size=dataclasses.replace(one.candidate.size, cores=cores)
    )
    there = partition or MemoryShare(gpu.id, Bytes(GIB))
    return dataclasses.replace(one, device_id=gpu.id, partition=there, candidate=candidate)


def test_an_engine_has_its_replicas_name_while_that_is_free() -> None:
    assert engine_name("a-1", ()) == "a-1"
    assert engine_name("a-1", {"a-1"}) == "a-1.2"
    assert engine_name("a-1", {"a-1", "a-1.2"}) == "a-1.3"


def test_an_engine_gets_its_models_parsers_before_what_its_user_says() -> None:
    flags, own = ("--tool-call-parser=hermes",), ("--seed=1",)
    model = dataclasses.replace(resolved(), parser_flags=flags)
    asked = spec("a", engine=EngineOptions(extra_args=own), workload=Workload(3500, 500))
    model = dataclasses.replace(model, spec=asked)
    launch = launch_for(placement("a-1", [1]), model, cpu(), name="a-1")
    assert launch.max_model_len == ARCHITECTURE.max_position, "a quarter more would be too long"
    assert launch.extra_args == (*flags, *own)


def test_limits_come_from_the_operating_point_and_are_explicit() -> None:
    wanted = placement("a-1", [1], batch=16)
    launch = launch_for(wanted, resolved(), cpu(), name="a-1")
    assert launch.kv_cache_bytes == wanted.candidate.kv_cache_bytes
    assert launch.memory_bytes == wanted.partition.memory_bytes
    assert (launch.max_num_seqs, launch.max_num_batched_tokens) == (16, 2048)
    assert max_num_batched_tokens(4096) == 4096, "a step holds a token of each sequence"
    assert (launch.cores, launch.visible_device) == ((1,), "")
    assert launch.placement == wanted
    assert launch.prefix_caching


def test_an_engine_runs_in_the_type_that_its_figures_are_for_unless_another_was_asked_for() -> None:
    one, model = placement("a-1", [1]), resolved()
    figures = dataclasses.replace(one.candidate, dtype="float32")
    wanted = dataclasses.replace(one, candidate=figures)
    for asked, there, dtype in (
        ("auto", wanted, "float32"), ("auto", one, "auto"), ("bfloat16", wanted, "bfloat16")
    ):  # fmt: skip
        engine = dataclasses.replace(model.spec.engine, dtype=asked)
        form = dataclasses.replace(model, spec=dataclasses.replace(model.spec, engine=engine))
        assert launch_for(there, form, cpu(), name="a-1").dtype == dtype


def test_beside_a_gpu_the_least_used_host_cores_are_taken() -> None:
    (gpu,) = fake_gpus("a100-80gb", cores=range(2))
    wanted = on(gpu)
    first = launch_for(wanted, resolved(), gpu, name="a-1")
    assert (first.cores, first.visible_device) == ((0,), gpu.id)
    assert cores_for(wanted, gpu, [first]) == (1,)
    assert cores_for(wanted, gpu, [], lent=[0]) == (1,)
    assert cores_for(wanted, gpu, [first, first], lent=[0, 1]) == (1,)
    (gpu,) = fake_gpus("a100-80gb", cores=range(6))
    gpu = dataclasses.replace(gpu, core_nodes=((0, 1, 2), (3, 4, 5)))
    large = on(gpu, cores=2)
    first = launch_for(large, resolved(), gpu, name="a-1")
    assert first.cores == (0, 1)
    assert cores_for(large, gpu, [first]) == (3, 4), "of one node"
    others = [dataclasses.replace(first, cores=cores) for cores in ((0, 1), (3, 4))]
    assert cores_for(large, gpu, others) == (2, 5), "none is shared while enough are free on two"


def test_cores_that_another_host_uses_are_free_here() -> None:
    here, there = (
        dataclasses.replace(fake_gpus("a100-80gb", cores=range(2))[0], id=host, host=host)
        for host in ("here", "there")
    )
    devices = (here, there)
    first = launch_for(on(there), resolved(), there, name="a-1")
    assert (first.host, first.cores) == ("there", (0,))
    assert on_same_host(here, devices, [first]) == ()
    assert on_same_host(there, devices, [first]) == (first,)
    lease = Lease(MemoryShare(there.id, Bytes(GIB)), (1,))
    assert lent_there(here, devices, [lease]) == ()
    assert lent_there(there, devices, [lease]) == (1,)
    # A device that is gone was perhaps here: its engine may still hold the cores.
    gone = dataclasses.replace(first, device_id="gone")
    assert on_same_host(here, devices, [gone]) == (gone,)
    stored = dataclasses.replace(first, host="")
    assert on_same_host(there, devices, [stored]) == (stored,)


def test_an_mps_share_is_told_to_the_driver() -> None:
    (gpu,) = fake_gpus("a100-80gb")
    share = MpsShare(gpu.id, Bytes(GIB), sm_percent=30)
    launch = launch_for(on(gpu, partition=share), resolved(), gpu, name="a-1")
    assert launch.extra_env == (("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "30"),)


def test_an_engine_is_started_in_the_group_of_its_model() -> None:
    model = resolved()
    assert launch_for(placement("a-1"), model, cpu(), name="a-1").isolation_group == ""
    blue = dataclasses.replace(model, spec=dataclasses.replace(model.spec, isolation_group="blue"))
    assert launch_for(placement("a-1"), blue, cpu(), name="a-1").isolation_group == "blue"
