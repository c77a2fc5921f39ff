"""The description of a host is accepted or refused by its parts."""

import json
from pathlib import Path

import pytest

from partitiond.core.errors import ConflictError, DeviceError, InputError, NotFoundError, SpecError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.simulated.gpus import (
    GpuDescription,
    HostDescription,
    SimulatedHost,
    library,
    shipped_descriptions,
)
from partitiond.simulated.gpus.models import MODELS, mig_profile_fields


def described(**changes: object) -> HostDescription:
    return HostDescription(**{"name": "x", "gpus": (GpuDescription("a100-80gb"),), **changes})  # type: ignore[arg-type]


FULL = GpuDescription("a100-80gb", mig=True, mig_instances=("4g.40gb@0", "3g.40gb@0"))


def test_every_gpu_of_the_catalog_can_be_simulated() -> None:
    gpus = {key for key, spec in HARDWARE.items() if spec.kind is DeviceKind.GPU}
    assert MODELS.keys() == gpus
    for key in gpus:
        assert len(mig_profile_fields(key)) == len(HARDWARE[key].mig_profiles)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (described(gpus=()), "1 to 64 GPUs"),
        (described(gpus=(GpuDescription("a100-80gb", count=65),)), "1 to 64 GPUs"),
        (described(name=""), "its name"),
        (described(numa_nodes=0), "numa_nodes"),
        (described(gpus=(GpuDescription("a900"),)), "no model 'a900'"),
        (described(gpus=(GpuDescription("a100-80gb", name="x" * 61),)), "name has to be"),
        (described(gpus=(GpuDescription("l4-24gb", mig=True),)), "has no MIG"),
        (described(gpus=(GpuDescription("a100-80gb", mig_instances=("1g.10gb@0",)),)), "need mig"),
        (
            described(gpus=(GpuDescription("a100-80gb", mig=True, mig_instances=("1g.5gb@0",)),)),
            "is no GPU instance",
        ),
        (
            described(gpus=(GpuDescription("a100-80gb", mig=True, mig_instances=("7g.80gb",)),)),
            "is no GPU instance",
        ),
        (described(gpus=(FULL,)), r"3g\.40gb@0 does not fit"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    description: HostDescription, words: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=words) as refused:
        SimulatedHost.create(description, tmp_path / "host")
    assert refused.value.hint
    assert not (tmp_path / "host").exists()


def test_a_description_of_ones_own_is_read_and_unknown_keys_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"name": "mine", "gpus": [{"model": "t4-16gb", "count": 3}]}))
    host = SimulatedHost.create(str(file), tmp_path / "first")
    assert len(host.uuids()) == 3
    assert json.loads((host.folder / "host.json").read_text())["name"] == "mine"
    file.write_text(json.dumps({"name": "mine", "gpus": [{"model": "t4-16gb", "cuont": 3}]}))
    with pytest.raises(InputError, match="cuont"):
        SimulatedHost.create(str(file), tmp_path / "host")
    file.write_text("{")
    with pytest.raises(SpecError, match="cannot be read"):
        SimulatedHost.create(str(file), tmp_path / "host")
    with pytest.raises(NotFoundError) as refused:
        SimulatedHost.create("a100", tmp_path / "host")
    assert all(name in refused.value.hint for name in shipped_descriptions())
    state = host.folder / "state"
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(DeviceError, match="no simulated host of this version"):
        SimulatedHost.open(host.folder)


def test_a_folder_that_is_not_empty_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConflictError):
        SimulatedHost.create("mixed", tmp_path)
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(NotFoundError):
        SimulatedHost.open(tmp_path)


def test_an_unknown_gpu_or_figure_is_refused(host: SimulatedHost) -> None:
    with pytest.raises(NotFoundError, match="GPU-1"):
        host.lose("GPU-1")
    with pytest.raises(SpecError, match="mood"):
        host.set_load(host.uuids()[0], mood=1)
    with pytest.raises(SpecError):
        host.set_health(host.uuids()[0], ecc=-1)
    with pytest.raises(SpecError):
        host.set_health(host.uuids()[0], temperature_c=1 << 40)


def test_without_a_compiler_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", "no-such-compiler")
    library._content_hash.cache_clear()
    try:
        with pytest.raises(DeviceError, match="needs a C compiler") as refused:
            SimulatedHost.create("mixed", tmp_path / "host")
    finally:
        library._content_hash.cache_clear()
    assert "gcc" in refused.value.hint
