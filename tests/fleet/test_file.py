"""Fleet files are read, and their errors are explained."""

from pathlib import Path

import pytest

from partitiond.core.dispatch.routing import RequestLimits
from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.mig.geometry import geometry_on, place_of
from partitiond.core.model import spec
from partitiond.core.model.spec import ModelSource, PlacementRules, SourceKind
from partitiond.core.model.workload import Workload
from partitiond.core.plan.record import Plan
from partitiond.fleet.file import fleet_schema, load_fleet
from partitiond.fleet.lines_of_mistakes import keys_of
from partitiond.fleet.offline import fleet_request
from partitiond.planner.api import solve

EXAMPLES = Path(__file__).parents[2] / "examples"

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
operating_point = "goodput"
slo = { ttft_seconds = 1, tpot_seconds = 0.1 }
demand = { req_per_s = 4, percentile = 99, window_seconds = 1 }
engine = { max_model_len = 512, max_num_batched_tokens = 1024 }
min_replicas = 1
max_replicas = 4
isolation = "device"
isolation_group = "blue"
auto = false
aliases = ["facebook/opt-1.3b"]
request_defaults = { temperature = 0.2, stop = ["\\n"] }
request_limits = { max_output_tokens = 64 }
workload = { shape = "trace", pairs_file = "pairs.csv" }

[models.rules]
near = ["mine"]
only_on = ["l4-24gb"]
survive = "host"
survive_share = 0.5
priority = -1

[[models.variants]]
name = "fp8"
engine = { quantization = "fp8", kv_cache_dtype = "fp8" }

[[models.variants]]
name = "awq"
model = "org/opt-1.3b-awq"

[[models]]
name = "mine"
demand = { req_per_s = 1 }
autoscale = { scale_to_zero_seconds = 600 }
workload = { prompt_tokens = 400, prompt_variation = 1.1 }

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
experts = 0
"""


def write(folder: Path, text: str) -> Path:
    """A fleet file with this text."""
    path = folder / "fleet.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_fleet_file_says_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("prompt_tokens,output_tokens\n100,20\n300,40\n")
    fleet = load_fleet(write(tmp_path, WHOLE))
    first, second = fleet.models
    assert (first.name, first.weights, first.auto) == ("opt-1.3b", spec.Weights.DUMMY, False)
    assert (first.isolation, first.isolation_group) == (spec.Isolation.DEVICE, "blue")
    assert first.demand.planned_req_per_s == 9.0
    assert first.engine.max_model_len == 512
    assert first.aliases == ("facebook/opt-1.3b",)
    assert first.request_defaults == {"temperature": 0.2, "stop": ["\n"]}
    assert first.request_limits == RequestLimits(max_output_tokens=64)
    assert first.workload == Workload.of_trace([(100, 20), (300, 40)])
    assert first.operating_point is spec.PointName.GOODPUT
    rules = PlacementRules((), ("mine",), ("l4-24gb",), spec.FaultDomain.HOST, 0.5, -1)
    assert first.rules == rules
    fp8, awq = first.variants
    assert (fp8.engine.quantization, fp8.engine.max_num_batched_tokens) == ("fp8", 1024)
    assert awq.source is not None
    assert awq.source.ref == "org/opt-1.3b-awq"
    assert second.source.kind is spec.SourceKind.CONFIG
    assert second.autoscale == spec.Autoscale(600)
    assert second.workload == Workload.lognormal(400, 256, 1.1, 0.0)
    assert fleet.architectures["mine"].parameters == 100_000_000
    assert [d.id for d in fleet.devices] == ["l4-24gb-0", "l4-24gb-1", "l4-24gb-2"]
    assert len({d.host for d in fleet.devices}) == 2
    assert fleet.devices[1].cores == (4, 5, 6, 7)
    assert fleet.devices[0].modes == (SharingMode.MPS,)
    assert fleet.settings == {"planner": {"time_limit_seconds": 3}}
    assert load_fleet(EXAMPLES / "two-models.toml").devices == (), "for this host"


def test_an_example_is_found_by_its_name_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of that name in the folder comes first; no other path means an example."""
    monkeypatch.chdir(tmp_path)
    for name in ("twelve-models", "twelve-models.toml", "examples/twelve-models.toml"):
        assert len(load_fleet(Path(name)).models) == 12
    Path("twelve-models.toml").write_text('[[models]]\nmodel = "opt-125m"\n')
    assert len(load_fleet(Path("twelve-models.toml")).models) == 1
    for name in ("elsewhere/twelve-models.toml", "thirteen-models", str(tmp_path / "too-much")):
        with pytest.raises(SpecError, match="cannot be read"):
            load_fleet(Path(name))


def test_a_folder_is_found_from_the_file_or_from_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "fleet" / "m"
    inner.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for text, found in (
        (".", inner.parent),
        ("..", tmp_path),
        ("./m", inner),
        ("../fleet", inner.parent),
        ("~", tmp_path),
        ("~/fleet/m", inner),
    ):
        write(inner.parent, f'[[models]]\nname = "x"\nmodel = "{text}"\n')
        (model,) = load_fleet(Path("fleet/fleet.toml")).models
        assert model.source == ModelSource(SourceKind.FOLDER, str(found))


BUILT = '[[models]]\nname = "x"\n' + WHOLE[WHOLE.index("[models.architecture]") :]
MODEL = '[[models]]\nmodel = "opt-125m"\n'
OTHER = '[[models]]\nmodel = "smollm2-135m"\n'
L4 = '[[devices]]\nhardware = "l4-24gb"\n'
ON_H = 'host = "h"\nhost_memory'
A100 = '[[devices]]\nhardware = "a100-80gb"\n'


OF_A_MODEL = (  # what a field may be is in tests/api/test_one_field.py
    ("replicas = 2", "line 3: models, entry 1, replicas: there is no such key"),
    ("demand = { req_per_s = 1e9 }", "line 3: models, entry 1, demand, req_per_s: must be at most"),
    ('demand = { req_per_s = "many" }', "line 3: models, entry 1, demand, req_per_s"),
    ("slo = { ttft_seconds = 1 }", "entry 1, slo, tpot_seconds: must be given"),
    (MODEL, "line 3: models, entry 2: the name 'opt-125m' is taken"),
    (OTHER + 'aliases = ["opt-125m"]', "entry 2: the name 'opt-125m' is taken"),
    ('workload = { shape = "trace" }', "pairs"),
    (
        'engine = { extra_args = ["--port", "1"] }',
        "line 3: models, entry 1, engine: the engine flag '--port'",
    ),
    ('variants = [{ name = "a", engine = { extra_args = ["--x"] } }]', "'--x' is not allowed"),
    ('workload = { pairs_file = "none.csv" }', "none.csv"),
    ('workload = { pairs = [[1, 2]], pairs_file = "x.csv" }', "either"),
    ('variants = [{ name = "Big" }]', "variant"),
    ('variants = [{ name = "a", model = "no model" }]', "no model"),
)
OF_A_DEVICE = (
    ("occupied_slices = [8]", "less than 8"),
    ("occupied_slices = [0]\noccupied_sm_percent = 5", "cut by MIG or shared under MPS"),
    ('occupied_slices = [0]\nmodes = ["mps"]', "other programs use the GPU in the mode mig"),
    ('occupied_sm_percent = 9\nmodes = ["mig"]', "other programs use the GPU in the mode mps"),
    ('mig_instances = ["3g.40gb"]', "is no MIG instance"),
    ('mig_instances = ["3g.40gb@1"]', "cannot start at slice 1"),
    ('mig_instances = ["3g.40gb@4", "2g.20gb@6"]', "cannot start at slice 6"),
    ('mig_instances = ["3g.40gb@4", "1g.10gb@5"]', "overlap"),
    ('mig_instances = ["2g.10gb@0"]', "no MIG profile 2g.10gb"),
    ('mig_instances = ["big"]', "is no MIG instance"),
    ('mig_instances = ["3g.40gb@4"]\noccupied_slices = [4]', "occupied_slices overlap"),
    ('mig_fixed = true\nmodes = ["mps"]', "mig is not among"),
    ("idle_watts = 500", "idle_watts is more than its limit of 400 W"),
    ('reserved = "80GiB"', "reserved is all of the memory"),
    ('memory = "40GiB"\nmodes = ["mig"]', "need the whole memory"),
    ('memory = "lots"', "'lots' is not a size"),
    ("count = 0", "devices, entry 1, count"),
    ("max_replicas = 0", "greater than or equal to 1"),
    ('id = "no blanks"', "should match pattern"),
    (f'id = "x"\n{L4}id = "x"', "id 'x' is given 2 times"),
    (f'{ON_H} = "1GiB"\n{L4}{ON_H} = "2GiB"', "two different host_memory"),
)
OF_A_FILE = (
    ("[[models]\n", "not valid TOML"),
    (
        "[settings.planner]\nspeed = 3",
        "line 2: settings, planner, speed: the setting planner.speed",
    ),
    ("[settings.planner]\nobjective = 3", "line 2: settings, planner, objective: must be 'min"),
    ("models = 3", "models: must be a list (got 3)"),
    ("[models]\nmodel = 3", "line 1: models: is a list of tables"),
    ('[[models]]\nmodel = "no-such-model"', "entry 1, model: 'no-such-model' is no model"),
    ('[[models]]\nname = "x"', "entry 1, model: a model needs `model`"),
    ('[[models]]\nmodel = "~nobody-here/m"', "nobody-here/m does not exist"),
    ('[[models]]\nname = "x"\narchitecture = { layers = 2 }', "hidden_size"),
    (BUILT.replace("heads = 8", "heads = -8"), "heads must be a positive"),
    (BUILT.replace("= 100_000_000", "= true"), "parameters must be a positive number, got True"),
    (f"{BUILT}weight_bytes_per_parameter = 0", "weight_bytes_per_parameter must be a positive"),
    (f"{BUILT}kv_bytes_per_value = 0.0", "kv_bytes_per_value must be a positive"),
    (BUILT.replace("experts = 0", "experts = -1"), "experts must be a positive"),
    ('[[devices]]\nhardware = "tpu"', "devices, entry 1: the hardware 'tpu' is not known"),
    (L4 + 'modes = ["mig"]', "does not allow the mode mig"),
)


def test_a_mistake_is_named_with_its_place_and_what_to_do(tmp_path: Path) -> None:
    for text, says in (
        *OF_A_FILE,
        *((MODEL + text, says) for text, says in OF_A_MODEL),
        *((A100 + text, says) for text, says in OF_A_DEVICE),
    ):
        with pytest.raises(SpecError) as caught:
            load_fleet(write(tmp_path, text))
        assert says in caught.value.message
        assert caught.value.hint


def test_all_mistakes_of_a_file_are_told_at_once_by_line_with_what_was_meant(
    tmp_path: Path,
) -> None:
    unknown = f"""{MODEL}replicas = 1
[models.demand]
rps = 4
[[models.variants]]
name = "a"
engine = {{ args = [] }}
{A100}cout = 1
[[model]]
"""
    with pytest.raises(SpecError) as caught:
        load_fleet(write(tmp_path, unknown))
    assert caught.value.message.splitlines()[1:] == [
        "  line 3: models, entry 1, replicas: there is no such key. Did you mean min_replicas?",
        "  line 5: models, entry 1, demand, rps: there is no such key. There are req_per_s, "
        "burst_factor, weight, percentile, window_seconds.",
        "  line 8: models, entry 1, variants, entry 1, engine, args: there is no such key. "
        "Did you mean extra_args?",
        "  line 11: devices, entry 1, cout: there is no such key. Did you mean count?",
        "  line 12: model: there is no such key. Did you mean models?",
    ]
    values = f"""{MODEL}demand = {{ req_per_s = -1 }}
request_defaults = {{ temperature = 99 }}
nam = "a"
[models.slo]
ttft_seconds = 1
tpot_seconds = 0
[[models]]
model = "no-such-model"
workload = {{ prompt_tokens = 0 }}
[[models]]
model = "opt-125m"
rules = 4
"""
    with pytest.raises(SpecError) as caught:
        load_fleet(write(tmp_path, values))
    places = [line.partition(": ")[::2] for line in caught.value.message.splitlines()[1:]]
    assert [(line.strip(), says.partition(": ")[0]) for line, says in places] == [
        ("line 3", "models, entry 1, demand"),
        ("line 4", "models, entry 1, request_defaults"),
        ("line 5", "models, entry 1, nam"),
        ("line 8", "models, entry 1, slo, tpot_seconds"),
        ("line 10", "models, entry 2, model"),
        ("line 11", "models, entry 2, workload, prompt_tokens"),
        ("line 14", "models, entry 3, rules"),
    ]
    assert "rules: must be a table (got 4)" in caught.value.message
    beside = f"""{MODEL}nam = "a"
workload = {{ prompt_tokens = 0 }}
slo = {{ ttft_seconds = -1, bar = 2 }}
rules = {{ survive = "x", survive_share = 0.5 }}
request_limits = {{ max_sequences = -1 }}
priority = -1
engine = {{ max_model_len = -2 }}
{L4}idle_watts = 900
"""
    with pytest.raises(SpecError) as caught:
        load_fleet(write(tmp_path, beside))
    told = [line.split(": ")[1] for line in caught.value.message.splitlines()[1:]]
    of_model = ("nam", "workload, prompt_tokens", "slo, bar", "slo, tpot_seconds", "rules, survive",
                "request_limits, max_sequences", "priority", "engine, max_model_len")  # fmt: skip
    assert told == [*(f"models, entry 1, {name}" for name in of_model), "devices, entry 1"]
    refused = f"{MODEL}{MODEL}{L4}idle_watts = 900\n[[devices]]\nhardware = 'x'\ncount = 0\n"
    refused += "[[models]]\nmax_replicas = 0\nrules = 4\npriority = 1\n"
    with pytest.raises(SpecError, match="has 8 mistakes") as caught:
        load_fleet(write(tmp_path, refused))
    for says in ("line 3: models, entry 2: the name", "line 5: devices, entry 1: idle_watts",
                 "line 8: devices, entry 2: the hardware 'x' is not known.", "entry 2, count",
                 "entry 3, model: a model needs", "entry 3, max_replicas: max_replicas must be",
                 "entry 3, priority: there is no such key. Did you mean rules.prio"):  # fmt: skip
        assert says in caught.value.message


def test_the_schema_for_editors_takes_the_whole_file_and_names_its_keys() -> None:
    schema = fleet_schema()
    assert set(schema["properties"]) == {"settings", "devices", "models"}
    assert "pairs_file" in keys_of(schema, ("models", 0, "workload"))
    assert keys_of(schema, ("models", 0, "slo")) == ("ttft_seconds", "tpot_seconds", "quantile")
    assert keys_of(schema, ("models", 0, "request_defaults", "x")) == ()


def test_twelve_models_need_less_than_half_of_the_gpus() -> None:
    fleet = load_fleet(EXAMPLES / "twelve-models.toml")
    plan = solve(fleet_request(fleet))
    assert isinstance(plan, Plan)
    assert len(plan.forecasts) == 12
    assert plan.unplaced == ()
    proof = plan.certificate
    assert proof.bound <= proof.value <= proof.bound + 1
    assert proof.baseline_one_model_per_device is not None
    assert proof.value < proof.baseline_one_model_per_device / 2


def test_twelve_models_of_mixed_kinds_are_planned_without_a_measurement() -> None:
    request = fleet_request(load_fleet(EXAMPLES / "mixed-kinds.toml"))
    plan = solve(request)
    assert isinstance(plan, Plan)
    names = {model.model for model in request.models}
    assert len(names) == 12
    assert {placement.model for placement in plan.placements} == names
    assert not plan.unplaced
    told = next(line for line in plan.explanation if line.startswith("Estimated, not measured"))
    assert all(name in told for name in names)
    assert "30% for the rate and 10% for the memory" in told
    assert any("were off by 42%" in line for line in plan.explanation)


def test_an_unknown_architecture_is_asked_for(tmp_path: Path) -> None:
    text = L4 + '[[models]]\nmodel = "org/unknown"\n'
    with pytest.raises(SpecError, match="architecture of unknown is not known"):
        fleet_request(load_fleet(write(tmp_path, text)))


DEVICES = """
[[devices]]
hardware = "a100-80gb"
count = 3
per_host = 2
host = "node-a"
rack = "r1"
cores = 4
host_memory = "64GiB"
idle_watts = 60
max_watts = 300

[[devices]]
hardware = "a100-80gb"
id = "gpu-3"
host = "node-a-0"
cores = 2
occupied_slices = [1, 0]
max_replicas = 4

[[devices]]
hardware = "h100-80gb"
id = "spare"
count = 2
cordoned = true

[[devices]]
hardware = "a100-80gb"
occupied_sm_percent = 30
"""


def test_all_a_device_can_be_is_in_its_table(tmp_path: Path) -> None:
    fleet = load_fleet(write(tmp_path, DEVICES))
    ids = ["a100-80gb-0", "a100-80gb-1", "a100-80gb-2", "gpu-3", "spare-0", "spare-1"]
    assert [d.id for d in fleet.devices] == [*ids, "a100-80gb-4"]
    first, second, third, cut, spare, _, shared = fleet.devices
    hosts = [d.host for d in (first, second, third, cut)]
    assert hosts == [f"node-a-{n}" for n in (0, 0, 1, 0)]
    assert (first.rack, first.idle_watts, first.max_watts) == ("r1", 60, 300)
    assert [d.cores for d in (first, second, third)] == [(0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 2, 3)]
    assert (cut.cores, cut.occupied_slices, cut.max_replicas) == ((8, 9), (0, 1), 4)
    assert spare.cordoned
    assert shared.occupied_sm_percent == 30
    assert fleet.host_memory_bytes == (("node-a-0", 64 * 2**30), ("node-a-1", 64 * 2**30))


def test_gpu_instances_that_exist_are_in_the_table(tmp_path: Path) -> None:
    text = A100 + 'mig_instances = ["3g.40gb@4", "1g.10gb@0"]\nmig_fixed = true\n'
    (device,) = load_fleet(write(tmp_path, text)).devices
    assert device.modes == (SharingMode.MIG,)
    assert device.mig_fixed
    assert [place_of(i) for i in device.mig_instances] == [("1g.10gb", 0, 1), ("3g.40gb", 4, 4)]
    geometry = geometry_on(device)
    assert geometry is not None
    assert geometry.most == 2
    (device,) = load_fleet(write(tmp_path, A100 + 'memory = "40GiB"\n')).devices
    assert SharingMode.MIG not in device.modes


FLEET = """
[[devices]]
hardware = "a100-40gb"
modes = ["mig"]
host_memory = "{memory}GiB"

[[models]]
model = "opt-125m"
isolation = "hardware"
demand = {{ req_per_s = 30 }}

[[models]]
name = "mine"
demand = {{ req_per_s = 5 }}
{architecture}
"""


@pytest.mark.parametrize(("memory", "held"), [(64, {"opt-125m", "mine"}), (4, None)])
def test_a_gpu_is_cut_by_mig_from_estimates_and_host_memory_limits_its_engines(
    tmp_path: Path, memory: int, held: set[str] | None
) -> None:
    """One of the models is of an architecture of its own, without files."""
    architecture = WHOLE[WHOLE.index("[models.architecture]") :]
    text = FLEET.format(memory=memory, architecture=architecture)
    plan = solve(fleet_request(load_fleet(write(tmp_path, text))))
    if held is None:
        assert not isinstance(plan, Plan) or len(plan.placements) <= 1
        return
    assert isinstance(plan, Plan)
    assert {p.partition.mode for p in plan.placements} == {SharingMode.MIG}
    assert {p.model for p in plan.placements} == held
    assert not plan.unplaced
