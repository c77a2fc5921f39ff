"""Plans under MPS and MIG are made from measurements of the whole GPU."""

import dataclasses

from partitiond.controller.plans.derived import Derivations, derivable_sizes, derive
from partitiond.controller.plans.situation import Situation
from partitiond.core.errors import ModelSourceError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import Device, MigInstance, SharingMode
from partitiond.core.hardware.partition import SM_PERCENTS, PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.record import RATE_MARGIN, Profile, ProfileKind, rate_margin
from partitiond.core.profile.sharing import Sharing
from partitiond.core.units import GIB, Bytes
from partitiond.planner.model.candidates import candidates_for
from tests.controller.samples import ARCHITECTURE, NOW, cpu, measured_profile, record, spec
from tests.devices.fake import fake_gpus

(A100,) = fake_gpus("a100-80gb")
(L4,) = fake_gpus("l4-24gb")
WHOLE = PartitionSize(SharingMode.WHOLE, 1, 100)
MODEL = spec("a")


def measured(
    size: PartitionSize = WHOLE, kind: ProfileKind = ProfileKind.MEASURED, **changes: object
) -> Profile:
    found = measured_profile("a", hardware="a100-80gb", kind=kind, profile_id=f"p-{size.key}")
    return dataclasses.replace(found, size=size, **changes)  # type: ignore[arg-type]


def derived(*profiles: Profile, devices: tuple[Device, ...] = (A100,)) -> tuple[Profile, ...]:
    return derive(MODEL, profiles, devices, {"": ARCHITECTURE}, NOW).profiles


def test_each_mode_of_the_gpu_gets_its_sizes() -> None:
    keys = {size.key for size in derivable_sizes([A100])}
    assert {f"mps-{percent}" for percent in SM_PERCENTS} <= keys
    assert {"mig-1g.10gb", "mig-7g.80gb"} <= keys
    assert not any(key.endswith("+me") for key in keys)
    assert all(size.mode is SharingMode.MPS for size in derivable_sizes([L4]))
    there = (MigInstance("3g.40gb", 4, 4, Bytes(39 * GIB), "MIG-a"),)
    fixed = dataclasses.replace(A100, modes=(SharingMode.MIG,), mig_instances=there, mig_fixed=True)
    assert [size.key for size in derivable_sizes([fixed])] == ["mig-3g.40gb"]


def test_a_whole_gpu_profile_yields_transferred_ones_that_plans_accept() -> None:
    found = derived(measured())
    assert {p.kind for p in found} == {ProfileKind.TRANSFERRED}
    assert all(p.transfer is not None and p.transfer.source_ids == ("p-whole",) for p in found)
    assert "p-whole@mps-30" in {p.id for p in found}
    demand = candidates_for(MODEL, [measured(), *found], ["a100-80gb"])
    modes = {candidate.size.mode for candidate in demand.candidates}
    assert {SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG} <= modes


def test_a_share_far_from_what_was_measured_is_planned_with_a_wider_margin() -> None:
    found = {p.size.key: p for p in derived(measured())}
    rates = [found[f"mps-{percent}"].points[-1].output_tokens_per_s for percent in SM_PERCENTS]
    assert rates == sorted(rates), "a smaller share is never faster"
    kind = ProfileKind.TRANSFERRED
    margins = [rate_margin(found[f"mps-{percent}"], kind) for percent in SM_PERCENTS]
    assert margins == sorted(margins, reverse=True)
    assert margins[0] > margins[-1] >= RATE_MARGIN[kind]
    far = dataclasses.replace(found["mps-10"].transfer, error_share=0.9)  # type: ignore[type-var]
    off = dataclasses.replace(found["mps-10"], transfer=far)
    assert rate_margin(off, kind) == RATE_MARGIN[ProfileKind.ESTIMATED]
    demand = candidates_for(MODEL, [off], ["a100-80gb"])
    trusted = candidates_for(MODEL, [found["mps-10"]], ["a100-80gb"])
    assert demand.candidates[0].capacity_req_per_s < trusted.candidates[0].capacity_req_per_s


def test_only_what_was_not_measured_itself_is_derived_from_a_profile_of_this_hardware() -> None:
    own = measured(PartitionSize(SharingMode.MPS, 1, 30))
    sharing = Sharing("mps", 0.04, 0.3, ())  # which was measured under MPS
    found = {p.size.key: p for p in derived(measured(sharing=(sharing,)), own)}
    assert "mps-30" not in found
    assert found["mps-40"].sharing == (sharing,)
    assert found["mig-1g.10gb"].sharing == ()
    guessed = derived(measured(kind=ProfileKind.ESTIMATED))
    assert {p.kind for p in guessed} == {ProfileKind.ESTIMATED}
    assert derived() == ()
    assert derived(measured(), devices=(L4,)) == ()
    assert derived(measured(), devices=(cpu(),)) == ()


def test_a_slice_that_no_figures_are_known_of_says_what_to_measure() -> None:
    """The driver lists MIG profiles of a GPU that the catalog does not know."""
    listed = HARDWARE["a100-80gb"].mig_profiles
    device = dataclasses.replace(A100, hardware="new-80gb", mig_profiles=listed)
    whole = dataclasses.replace(measured(), hardware="new-80gb")
    made = derive(MODEL, [whole], [device], {"": ARCHITECTURE}, NOW)
    assert {p.size.mode for p in made.profiles} == {SharingMode.MPS}
    assert any("partitiond profile a --device a100-80gb-0 --mig 2g.20gb" in n for n in made.notes)


# -- as the plan desk asks ---------------------------------------------------------------------


def situation(*profiles: Profile, stale: tuple[tuple[str, tuple[str, ...]], ...] = ()) -> Situation:
    return Situation((record("a"),), (("a", profiles),), (A100, cpu()), (), stale=stale)


async def architecture_of(_spec: ModelSpec) -> Architecture:
    return ARCHITECTURE


async def test_a_situation_is_widened_once_and_stays_what_it_was() -> None:
    derivations = Derivations(architecture_of)
    stale = (("p-whole", ("engine 1 -> 2",)),)
    before = situation(measured(), stale=stale)
    wider, notes = await derivations.widened(before, NOW)
    assert notes == ()
    assert len(dict(wider.profiles)["a"]) > 10
    assert dict(wider.stale)["p-whole@mps-30"] == ("engine 1 -> 2",), "as stale as its source"
    assert (await derivations.widened(before, "later"))[0] == wider
    assert before == situation(measured(), stale=stale)


async def test_no_model_of_a_large_plan_is_derived_again_for_the_next_one() -> None:
    """Not even after views of single models, with a specification of their own each."""
    asked = list[str]()

    async def gone(model: ModelSpec) -> Architecture:
        asked.append(model.name)
        raise ModelSourceError("gone")

    derivations, names = Derivations(gone), [f"m-{number}" for number in range(700)]
    profiles = [(name, (measured(),)) for name in names]
    large = Situation(tuple(record(name) for name in names), tuple(profiles), (A100,), ())
    await derivations.widened(large, NOW)
    for number in range(1500):
        one = record(names[0], max_replicas=number % 700 + 1)
        await derivations.widened(dataclasses.replace(large, records=(one,)), NOW)
        if number == 600:
            await derivations.widened(large, NOW)
    assert asked[: len(names)] == names
    assert set(asked[len(names) :]) == {names[0]}
    assert len(derivations._remembered) == 2 * len(names)


async def test_a_fixed_geometry_that_was_cut_anew_is_derived_anew() -> None:
    """Whoever cuts the GPU beside us changes which slices plans may use."""
    derivations = Derivations(architecture_of)
    keys = []
    for name, slices in (("3g.40gb", 4), ("2g.20gb", 2)):
        cut = MigInstance(name, 0, slices, Bytes(slices * 9 * GIB), f"MIG-{name}")
        gpu = dataclasses.replace(
            A100, modes=(SharingMode.MIG,), mig_instances=(cut,), mig_fixed=True
        )
        here = Situation((record("a"),), (("a", (measured(),)),), (gpu,), ())
        wider, _ = await derivations.widened(here, NOW)
        keys.append([p.size.key for p in dict(wider.profiles)["a"] if p.id != "p-whole"])
    assert keys == [["mig-3g.40gb"], ["mig-2g.20gb"]]


async def test_a_model_whose_config_cannot_be_had_is_planned_as_it_was_measured() -> None:
    async def gone(_spec: ModelSpec) -> Architecture:
        raise ModelSourceError("no config.", hint="Fetch it.")

    before = situation(measured())
    wider, _ = await Derivations(gone).widened(before, NOW)
    assert wider.profiles == before.profiles
    assert (await Derivations(None).widened(before, NOW))[0] is before
