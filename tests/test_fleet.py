"""Fleet files: what they say, and how they fail."""

from pathlib import Path

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.hardware import SharingMode
from partitiond.core.plan import Plan
from partitiond.core.spec import Isolation, PointName, SourceKind, Weights
from partitiond.core.workload import Workload
from partitiond.fleet import load_fleet
from partitiond.offline import plan_fleet
from partitiond.planner.check import check_plan

EXAMPLES = Path(__file__).parents[1] / "examples"

WHOLE = """
[settings.planner]
time_limit_seconds = 3

[[devices]]
hardware = "l4-24gb"
count = 3
per_host = 2
cores = 4
reserved = "1GiB"
modes = ["mps"]
price_per_hour = 0.7

[[models]]
model = "opt-1.3b"
weights = "dummy"
workload = { prompt_tokens = 64, output_tokens = 32 }
slo = { ttft_seconds = 1, tpot_seconds = 0.1 }
demand = { req_per_s = 2, burst_factor = 2 }
engine = { max_model_len = 512 }
min_replicas = 1
max_replicas = 4
isolation = "device"
auto = false

[[models]]
name = "mine"
demand = { req_per_s = 1 }

[models.architecture]
parameters = 100_000_000
hidden_size = 512
layers = 8
heads = 8
kv_heads = 8
head_dim = 64
intermediate_size = 2048
vocab_size = 32000
max_position = 2048
"""


def write(folder: Path, text: str) -> Path:
    """A fleet file with this text."""
    path = folder / "fleet.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_fleet_file_says_all_of_it(tmp_path: Path) -> None:
    fleet = load_fleet(write(tmp_path, WHOLE))
    first, second = fleet.models
    assert (first.name, first.weights, first.isolation) == (
        "opt-1.3b",
        Weights.DUMMY,
        Isolation.DEVICE,
    )
    assert first.demand.planned_req_per_s == 4
    assert first.engine.max_model_len == 512
    assert second.source.kind is SourceKind.CONFIG
    assert fleet.architectures["mine"].parameters == 100_000_000
    assert [d.id for d in fleet.devices] == ["l4-24gb-0", "l4-24gb-1", "l4-24gb-2"]
    assert len({d.host for d in fleet.devices}) == 2
    assert fleet.devices[1].cores == (4, 5, 6, 7)
    assert fleet.devices[0].modes == (SharingMode.MPS,)
    assert fleet.settings == {"planner": {"time_limit_seconds": 3}}


def test_a_fleet_without_devices_is_for_this_host() -> None:
    fleet = load_fleet(EXAMPLES / "two-models.toml")
    assert fleet.devices == ()
    assert [m.name for m in fleet.models] == ["smollm2-135m", "opt-125m"]


MODEL = '[[models]]\nmodel = "opt-125m"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[models]\n", "not valid TOML"),
        ("models = 3", "models"),
        (MODEL + "replicas = 2", "models, entry 1, replicas: there is no such key"),
        (MODEL + "demand = { req_per_s = 1e9 }", "models, entry 1: demand must lie between"),
        (MODEL + "demand = { req_per_s = -1 }", "models, entry 1: demand must lie between"),
        (MODEL + 'demand = { req_per_s = "many" }', "models, entry 1, demand, req_per_s"),
        (MODEL + "demand = { rps = 1 }", "entry 1: demand: there is no key 'rps'"),
        (MODEL + "slo = { ttft_seconds = 1 }", "entry 1: slo: lacks 'tpot_seconds'"),
        (MODEL + 'engine = { dtype = "int3" }', "entry 1: dtype 'int3' is not known"),
        (MODEL + "min_replicas = 3\nmax_replicas = 2", "entry 1: max_replicas must be"),
        (MODEL + "workload = { prompt_tokens = 0 }", "entry 1: prompt_tokens must be"),
        (MODEL + 'name = "Bad Name"', "entry 1: 'Bad Name' is no model name"),
        (MODEL + MODEL, "entry 2: the name 'opt-125m' is taken"),
        ('[[models]]\nmodel = "no-such-model"', "entry 1: 'no-such-model' is no model"),
        ('[[models]]\nname = "x"', "entry 1: a model needs `model`"),
        ('[[models]]\nname = "x"\narchitecture = { layers = 2 }', "architecture: lacks"),
        ('[[models]]\nname = "x"\narchitecture = { layers = -2 }', "layers must be a positive"),
        ('[[devices]]\nhardware = "tpu"', "devices, entry 1: the hardware 'tpu' is not known"),
        ('[[devices]]\nhardware = "l4-24gb"\ncount = 0', "devices, entry 1, count"),
        ('[[devices]]\nhardware = "l4-24gb"\nmodes = ["mig"]', "does not allow the mode mig"),
        ('[[devices]]\nhardware = "l4-24gb"\nmemory = "lots"', "'lots' is not a size"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_to_do(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load_fleet(write(tmp_path, text))
    assert says in caught.value.message
    assert caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.toml cannot be read"):
        load_fleet(tmp_path / "none.toml")


def test_twelve_models_need_less_than_half_of_the_gpus() -> None:
    fleet = load_fleet(EXAMPLES / "twelve-models.toml")
    plan = plan_fleet(fleet)
    assert isinstance(plan, Plan)
    assert len(plan.forecasts) == 12
    assert plan.unplaced == ()
    proof = plan.certificate
    assert proof.bound <= proof.value <= proof.bound + 1
    assert proof.baseline_one_model_per_device is not None
    assert proof.baseline_first_fit is not None
    assert proof.value < proof.baseline_one_model_per_device / 2
    assert proof.value < proof.baseline_first_fit


def test_an_own_architecture_is_planned_without_files(tmp_path: Path) -> None:
    plan = plan_fleet(load_fleet(write(tmp_path, WHOLE)))
    assert isinstance(plan, Plan)
    assert {p.model for p in plan.placements} == {"opt-1.3b", "mine"}


def test_an_unknown_architecture_is_asked_for(tmp_path: Path) -> None:
    text = '[[devices]]\nhardware = "l4-24gb"\n[[models]]\nmodel = "org/unknown"\n'
    with pytest.raises(SpecError, match="architecture of unknown is not known"):
        plan_fleet(load_fleet(write(tmp_path, text)))


def test_the_checker_accepts_the_example() -> None:
    from partitiond.offline import estimated_demands

    fleet = load_fleet(EXAMPLES / "twelve-models.toml")
    plan = plan_fleet(fleet)
    assert isinstance(plan, Plan)
    demands = tuple(estimated_demands(fleet, fleet.devices, plan.created_at))
    assert check_plan(plan, demands) == ()


def test_lengths_variants_and_the_operating_point(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("prompt_tokens,output_tokens\n100,20\n300,40\n")
    (tmp_path / "fleet.toml").write_text(
        """
[[models]]
model = "opt-125m"
slo = { ttft_seconds = 1.0, tpot_seconds = 0.05 }
operating_point = "goodput"
engine = { max_num_batched_tokens = 1024 }

[models.workload]
shape = "trace"
pairs_file = "pairs.csv"

[[models.variants]]
name = "fp8"
engine = { quantization = "fp8", kv_cache_dtype = "fp8" }

[[models.variants]]
name = "awq"
model = "org/opt-125m-awq"

[[models]]
model = "smollm2-360m"
workload = { prompt_tokens = 400, prompt_variation = 1.1 }
"""
    )
    first, second = load_fleet(tmp_path / "fleet.toml").models
    assert first.workload == Workload.of_trace([(100, 20), (300, 40)])
    assert first.operating_point is PointName.GOODPUT
    fp8, awq = first.variants
    assert (fp8.engine.quantization, fp8.engine.max_num_batched_tokens) == ("fp8", 1024)
    assert awq.source is not None
    assert awq.source.ref == "org/opt-125m-awq"
    assert second.workload == Workload.lognormal(400, 256, 1.1, 0.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('workload = { shape = "trace" }', "pairs"),
        ('workload = { pairs_file = "none.csv" }', "none.csv"),
        ('workload = { pairs = [[1, 2]], pairs_file = "x.csv" }', "either"),
        ('workload = { shape = "round" }', "shape"),
        ('operating_point = "slo"', "SLO"),
        ('variants = [{ name = "Big" }]', "variant"),
        ('variants = [{ name = "a", engine = { speed = 2 } }]', "speed"),
        ('variants = [{ name = "a", engine = { quantization = "int3" } }]', "int3"),
        ('variants = [{ name = "a", model = "no model" }]', "no model"),
    ],
)
def test_what_is_wrong_with_lengths_and_variants_is_said(
    tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "fleet.toml").write_text(f'[[models]]\nmodel = "opt-125m"\n{text}\n')
    with pytest.raises(SpecError) as refused:
        load_fleet(tmp_path / "fleet.toml")
    assert says in refused.value.message
    assert refused.value.hint
