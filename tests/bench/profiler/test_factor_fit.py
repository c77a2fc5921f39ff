"""Constants that made profiles are found again, and errors are told with a model left out."""

import dataclasses
import json
from pathlib import Path

import pytest

from bench.profiler.factor_fit import FIGURES, errors, fit_all, fit_factors, fit_kinds, sources_in
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.lookup import hardware_for_key
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.workload import Workload
from partitiond.core.performance.estimate import estimate_profile
from partitiond.core.performance.roofline import Factors
from partitiond.core.performance.transfer_fit import Source, Subject, source_of
from partitiond.core.profile.record import ProfileKind
from partitiond.models.catalog import CATALOG

TRUE = Factors(fixed=1.8, traffic=1.3, compute=1.5, sequences=0.6)


def made(hardware: str, model: str, factors: Factors = TRUE, prompt: int = 160) -> Source:
    """A profile as an engine with these factors would give it."""
    spec = hardware_for_key(hardware)
    mode = SharingMode.CORES if spec.cores else SharingMode.WHOLE
    size, workload = PartitionSize(mode, 2, 100), Workload(prompt, 64)
    subject = Subject(model, CATALOG[model].architecture, spec, size, workload)
    profile = estimate_profile(
        subject, prompt + 64, profile_id=model, memory_bytes=1 << 40, max_batch=256,
        factors=factors,
    )  # fmt: skip
    measured = dataclasses.replace(profile, kind=ProfileKind.MEASURED)
    return source_of(measured, CATALOG[model].architecture, spec)


@pytest.mark.parametrize("hardware", ["cpu-amd-epyc-2c", "h100-80gb"])
def test_the_constants_that_made_profiles_are_found_again(hardware: str) -> None:
    sources = [made(hardware, model, prompt=p) for model in ("opt-125m", "opt-2.7b", "mistral-7b")
               for p in (32, 512)]  # fmt: skip
    found = fit_factors(sources)
    before, after = ([errors(s, f)["tokens/s"] for s in sources] for f in (Factors(), found))
    assert max(map(abs, before)) > 0.25
    assert max(map(abs, after)) < 0.1
    assert min(dataclasses.astuple(found)) > 0


def test_errors_are_told_as_shipped_fitted_and_without_the_model() -> None:
    alike = [made("h100-80gb", "opt-6.7b"), made("h100-80gb", "mistral-7b")]
    other = made("h100-80gb", "opt-2.7b", Factors(fixed=6.0, sequences=6.0))
    (fit,) = fit_kinds([*alike, other])
    assert (fit.profiles, fit.models, set(fit.shipped)) == (3, 3, set(FIGURES))
    assert fit.fitted["tokens/s"] < fit.shipped["tokens/s"]
    assert fit.left_out["tokens/s"] > fit.fitted["tokens/s"], "what was not seen is not as near"
    (alone,) = fit_kinds(alike[:1])
    assert not alone.left_out, "one model cannot be predicted from others"
    assert [f.hardware for f in fit_kinds([made("cpu-amd-epyc-2c", "opt-125m"), other])] == [
        "cpu-amd-epyc-2c", "h100-80gb",
    ]  # fmt: skip
    assert fit_kinds([]) == ()
    (on_cpu,) = fit_kinds([made("cpu-amd-epyc-2c", "opt-125m")])
    assert {"SM activity", "J/token"}.isdisjoint(on_cpu.shipped), "it exposes neither"


def test_a_fit_is_to_profiles_with_decode_steps(tmp_path: Path) -> None:
    chat = next((Path(__file__).parents[3] / "profiles").glob("opt-125m-*.json")).read_text()
    embeds = json.loads(chat) | {"id": "in-one-piece"}
    for point in embeds["points"]:
        point["tpot"] |= dict.fromkeys(("mean", "p50", "p95", "p99"), 0.0)
    (tmp_path / "embeds.json").write_text(json.dumps(embeds))
    assert not list(sources_in(tmp_path))
    (tmp_path / "chat.json").write_text(chat)
    assert len(list(sources_in(tmp_path))) == 1
    of_profiles, published = fit_all(tmp_path)
    assert (of_profiles.profiles, published.models) == (1, 6)
    assert set(published.shipped) == {"tokens/s"}, "others published nothing else"
    assert published.shipped["tokens/s"] < published.left_out["tokens/s"] < 0.2
