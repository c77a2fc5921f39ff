"""`partitiond tools estimate` and `transfer` work without daemon, engine or network."""

import json
from pathlib import Path

import pytest

from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.models.catalog import CATALOG
from partitiond.serde import from_json, to_json
from tests.cli.conftest import Cli, widest
from tests.core.transfer_samples import cores, source, subject

A100 = ("--hardware", "a100-40gb")
CHAT = ("--prompt-tokens", 512, "--output-tokens", 256, "--memory-fraction", 0.9)


def test_json_has_the_figures_by_name_and_the_largest_batch_of_the_papers_table_1(cli: Cli) -> None:
    result = cli("tools estimate opt-1.3b", *A100, *CHAT, "--json")
    assert result.code == 0
    assert result.json["max_batch"] == 256
    assert 0 < result.json["max_batch_safe"] <= 512
    assert result.json["weights_bytes"] == CATALOG["opt-1.3b"].architecture.weights_bytes
    assert result.json["kv_bytes_per_token"] == CATALOG["opt-1.3b"].architecture.kv_bytes_per_token
    assert result.json["throughput_req_per_s"] > 0
    assert "knee_batch" in result.json


def test_the_table_fits_and_says_what_it_rests_on(cli: Cli) -> None:
    result = cli("tools estimate opt-1.3b", *A100)
    assert result.code == 0
    assert widest(result.out) <= 80
    assert "largest batch: 256 by the paper's memory model" in result.out
    assert "nothing was measured" in result.out


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_model_is_a_folder_or_a_config_file(cli: Cli, tmp_path: Path, as_folder: bool) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(CATALOG["opt-125m"].config)))
    path = folder if as_folder else folder / "config.json"
    result = cli("tools estimate", path, *A100, "--json")
    assert result.json["model"] == "my-model"
    assert result.json["weights_bytes"] == CATALOG["opt-125m"].architecture.weights_bytes


def test_a_slice_two_ways(cli: Cli) -> None:
    one = cli("tools estimate opt-125m", *A100, "--mig", "1g.5gb", "--json").json
    other = cli("tools estimate opt-125m --hardware a100-40gb:1g.5gb --json").json
    assert one == other
    assert one["partition"] == "mig-1g.5gb"


def test_an_sm_share_is_slower_than_the_device(cli: Cli) -> None:
    share = cli("tools estimate opt-1.3b", *A100, "--sm-percent", 20, "--json").json
    whole = cli("tools estimate opt-1.3b", *A100, "--json").json
    assert share["partition"] == "mps-20"
    assert share["throughput_req_per_s"] < whole["throughput_req_per_s"]


def test_this_hosts_cpu_is_measured_once(cli: Cli, home: Path) -> None:
    first = cli("tools estimate smollm2-135m --hardware cpu --cores 1 --json")
    assert first.code == 0
    assert first.json["partition"] == "cores-1"
    kept = (home / "state/cpu-figures.json").read_text()
    again = cli("tools estimate smollm2-135m --hardware cpu --cores 1 --json")
    assert again.json == first.json
    assert (home / "state/cpu-figures.json").read_text() == kept


def test_devices_side_by_side_with_the_users_prices(cli: Cli, tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('currency = "EUR"\n[price_per_hour]\na100 = 8\nl4 = 1.5\n')
    asked = ("tools", "estimate", "opt-1.3b", "--compare", "a100-40gb,l4,t4", "--slo-tpot", 0.05)
    result = cli(*asked, "--prices", prices, "--json")
    assert [row["hardware"] for row in result.json["devices"]] == [
        "a100-40gb", "l4-24gb", "t4-16gb",
    ]  # fmt: skip
    assert result.json["currency"] == "EUR"
    assert result.json["devices"][0]["cost_per_million_output_tokens"] > 0
    assert result.json["devices"][2]["cost_per_million_output_tokens"] is None
    assert "no price for t4-16gb" in result.err
    table = cli(*asked, "--prices", prices)
    assert widest(table.out) <= 80
    assert "cheapest per token" in table.out
    assert "cost/M" not in cli(*asked).out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("opt-1.3", *A100), "opt-1.3b"),
        (("opt-1.3b", "--hardware", "a100-41gb"), "a100-40gb"),
        (("opt-1.3b", *A100, "--memory-fraction", 1.2), "memory fraction"),
        (("opt-1.3b", *A100, "--memory-fraction", 0), "memory fraction"),
        (("opt-1.3b", "--hardware", "t4", "--dtype", "bfloat16"), "float16"),
        (("opt-1.3b", *A100, "--dtype", "int4"), "int4"),
        (("opt-1.3b", *A100, "--quantization", "int3"), "fp8"),
        (("opt-1.3b", *A100, "--kv-cache-dtype", "fp4"), "fp8"),
        (("opt-1.3b", *A100, "--mig", "9g"), "1g.5gb"),
        (("opt-1.3b", *A100, "--mig", "1g.5gb", "--sm-percent", 20), "MIG slice"),
        (("opt-1.3b", *A100, "--cores", 2), "--cores"),
        (("opt-1.3b", "--hardware", "cpu", "--cores", 5000), "cores"),
        (("opt-1.3b", "--hardware", "cpu", "--mig", "1g.5gb"), "MIG"),
        (("opt-1.3b",), "--hardware"),
        (("opt-1.3b", *A100, "--compare", "l4"), "--compare"),
        (("opt-1.3b", "--compare", ","), "--compare"),
        (("opt-1.3b", *A100, "--prompt-tokens", 4000), "2048"),
        (("opt-1.3b", *A100, "--prompt-tokens", 0), "prompt_tokens"),
        (("opt-1.3b", *A100, "--slo-ttft", -1), "ttft_seconds"),
        (("opt-1.3b", *A100, "--prices", "p.toml"), "--compare"),
        (("opt-1.3b", "--compare", "l4", "--prices", "/nowhere/p.toml"), "cannot be read"),
        (("opt-1.3b", "--hardware", "a100-40gb:1g.5gb", "--mig", "2g.10gb"), "Give one of them"),
        (("opt-1.3b", *A100, "--max-model-len", 10), "requests of up to 768"),
        (("opt-1.3b", *A100, "--max-model-len", 10), "leave the context out"),
        (("opt-1.3b", *A100, "--max-model-len", 10**6), "2048 tokens of context"),
        (("opt-1.3b", *A100, "--max-model-len", 10**6), "768 to 2048"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(
    cli: Cli, arguments: tuple[object, ...], said: str
) -> None:
    result = cli("tools estimate", *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[price_per_hour]\n"a100-40gb:1g.5gb" = 1', ("MIG slice", "one a100-40gb costs")),
        (b"[price_per_hour]\nl4 = 1\nl4-24gb = 2", ("l4-24gb has two prices",)),
        (None, ()),
        (b"\xff\xfe", ()),
    ],
    ids=["of a slice", "two", "a folder", "no text"],
)
def test_prices_are_of_whole_devices_once_and_can_be_read(
    cli: Cli, tmp_path: Path, content: bytes | None, words: tuple[str, ...]
) -> None:
    file = tmp_path / "prices.toml"
    file.mkdir() if content is None else file.write_bytes(content)
    result = cli("tools estimate opt-1.3b --compare l4 --prices", file)
    assert result.code == 2
    assert "Errno" not in result.err
    assert all(word in result.said for word in words)


def test_a_config_that_is_none_is_refused(cli: Cli, tmp_path: Path) -> None:
    for text in ("{", "[]", '{"model_type": "made-up"}'):
        (tmp_path / "config.json").write_text(text)
        result = cli("tools estimate", tmp_path / "config.json", *A100)
        assert result.code == 2
        assert result.out == ""


@pytest.fixture
def measured(tmp_path: Path) -> list[Path]:
    """Two measured profiles of one model, on one core and on two."""
    paths = []
    for count in (1, 2):
        profile = source(subject(size=cores(count)), noise=0.02, seed=count).profile
        paths.append(tmp_path / f"cores-{count}.json")
        paths[-1].write_text(to_json(profile))
    return paths


def test_transfer_predicts_another_number_of_cores(cli: Cli, measured: list[Path]) -> None:
    target = measured[0].parent / "four.json"
    result = cli("tools transfer", *measured, "--cores", 4, "-o", target)
    assert result.code == 0
    assert "error band" in result.out
    assert widest(result.out) <= 80
    kept = from_json(Profile, target.read_text())
    assert kept.kind is ProfileKind.TRANSFERRED
    assert kept.size.key == "cores-4"
    assert kept.transfer is not None
    assert len(kept.transfer.source_ids) == 2


def test_transfer_predicts_another_model_and_other_lengths(cli: Cli, measured: list[Path]) -> None:
    lengths = "--prompt-tokens 64 --output-tokens 64"
    result = cli(f"tools transfer {measured[0]} --model opt-125m {lengths} --json")
    assert result.code == 0
    assert result.json["model"] == "opt-125m"
    assert result.json["workload"]["prompt_tokens"] == 64
    assert result.json["transfer"]["error_share"] > 0.1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--hardware", "l4"), "GPU"),
        (("--cores", 9), "8 cores"),
        (("--sm-percent", 10), "--sm-percent"),
        (("--model", "opt-1"), "opt-1.3b"),
        (("--memory", "much"), "not a size"),
        (("--memory", "0"), "above 0"),
        (("--prompt-tokens", 100_000), "8192"),
        (("--prompt-tokens", 0), "prompt_tokens must be between"),
        (("--output", "/nowhere/p.json"), "cannot be written"),
        (("ITSELF",), "given twice"),
        (("none.json",), "none.json"),
    ],
)
def test_a_transfer_that_makes_no_sense_is_refused(
    cli: Cli, measured: list[Path], arguments: tuple[object, ...], said: str
) -> None:
    given = (measured[0] if word == "ITSELF" else word for word in arguments)
    result = cli("tools transfer", measured[0], *given)
    assert result.code == 2
    assert said in result.said


def test_what_is_neither_file_nor_known_says_both(
    cli: Cli, tmp_path: Path, measured: list[Path]
) -> None:
    result = cli("tools transfer measured")
    assert result.code == 5
    assert "no file measured" in result.err
    assert "partitiond serve" in result.err
    folder = cli("profile diff", tmp_path, measured[0])
    assert folder.code == 2
    assert "directory" in folder.err


def test_what_does_not_fit_says_how_far_it_is_from_it(cli: Cli) -> None:
    result = cli("tools estimate opt-13b --hardware l4")
    assert result.code == 0
    assert "not even one request fits: it needs" in result.out
    assert "batch   tok/s" not in result.out


def test_two_names_of_a_device_are_one_row(cli: Cli) -> None:
    devices = cli("tools estimate opt-1.3b --compare", "l4, l4-24gb,L4", "--json").json["devices"]
    assert [device["hardware"] for device in devices] == ["l4-24gb"]
