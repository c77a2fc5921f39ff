"""`partitiond profile` shows and moves what is kept, against the API on a real port."""

import json
from dataclasses import replace
from pathlib import Path

from partitiond.core.model.spec import ModelSource, SourceKind
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.profile.record import SCHEMA_VERSION, Profile
from partitiond.fleet.profile_files import read_profile
from partitiond.serde import to_json, to_jsonable
from tests.cli.conftest import Cli
from tests.controller.host import Host
from tests.controller.samples import NOW, measured_profile, record


def other(number: int) -> Profile:
    return replace(measured_profile(), id=f"p-{number}", kv_cache_tokens=1000 + number)


def written(folder: Path, *profiles: Profile) -> list[Path]:
    paths = [folder / f"{profile.id}.json" for profile in profiles]
    for path, profile in zip(paths, profiles, strict=True):
        path.write_text(to_json(profile))
    return paths


def test_a_folder_is_imported_listed_and_exported_and_nothing_overwritten_unasked(
    host: Host, cli: Cli, tmp_path: Path
) -> None:
    written(tmp_path, other(1), other(2))
    assert cli("profile import", tmp_path).code == 0
    cli("profile show").ended(0, "p-1", "p-2")
    again = tmp_path / "again.json"
    again.write_text(cli("profile show p-1 --json").out)
    assert read_profile(again) == other(1)

    clash = replace(other(1), kv_cache_tokens=7)
    files = written(tmp_path, clash, other(3))
    cli("profile import", *files).ended(4, "1 of 2")
    kept = {view.id: view for view in host.store.profiles()}
    assert (kept["p-1"], kept["p-3"]) == (other(1), other(3)), "the others are kept"
    assert cli("profile import", *files, "--replace").code == 0
    assert host.store.profile("p-1") == clash


def test_one_bad_file_keeps_all_out(host: Host, cli: Cli, tmp_path: Path) -> None:
    written(tmp_path, other(1))
    newer = to_jsonable(other(2)) | {"schema_version": SCHEMA_VERSION + 1, "colour": "red"}
    (tmp_path / "newer.json").write_text(json.dumps(newer))
    words = ("newer.json", f"schema {SCHEMA_VERSION + 1}", "update this one")
    cli("profile import", tmp_path).refused(2, *words)
    assert list(host.store.profiles()) == []


def test_what_cannot_be_read_is_not_imported(host: Host, cli: Cli) -> None:
    cli("profile import nowhere").refused(2, "cannot be read", "what to do")
    cli("profile import /dev/zero").refused(2, "larger than 4 MiB", "profile show --json")


def test_a_stale_profile_is_shown_as_such(host: Host, cli: Cli) -> None:
    source = ModelSource(SourceKind.HUB, "org/a", "r2")
    host.store.add_model(record("a", source=source, auto=False))
    origin = replace(other(1).provenance, model_revision="r1")
    host.store.add_profile(replace(other(1), provenance=origin))
    cli("profile show p-1").ended(0, "stale: the model", "r1", "r2")
    (why,) = cli("profile show p-1 --json").json["stale"]
    assert "r1" in why
    assert cli("profile show none").code != 0


def test_watching_a_job_that_ended_says_how(host: Host, cli: Cli) -> None:
    ended = Job("job-1", "profile", "a", JobState.SUCCEEDED, NOW, NOW, Progress("done", "done"))
    failed = replace(ended, id="job-2", state=JobState.FAILED, error="out of memory.")
    for job in (ended, failed):
        host.store.put_job(job)
    assert cli("profile jobs job-1 --watch").code == 0
    cli("profile jobs job-2 --watch").ended(1, "out of memory.")
    assert cli("profile jobs none --watch").code != 0
    for words in ("--watch", "job-1 --watch --cancel", "--cancel"):
        cli("profile jobs", *words.split()).refused(2, "are for one job")
    assert cli("profile jobs job-2 --json").json["state"] == "failed"


def test_a_model_is_registered_with_lengths_variants_and_point(
    host: Host, cli: Cli, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("prompt_tokens,output_tokens\n100,20\n300,40\n")
    spec = cli(
        "models", "add", "opt-125m", "--weights", "dummy", "--lengths", pairs, "--ttft", 1,
        "--tpot", 0.05, "--point", "goodput", "--variant", "name=fp8,quantization=fp8",
        "--variant", "name=kv8,kv_cache_dtype=fp8,max_num_batched_tokens=512",
        "--max-num-batched-tokens", 1024, "--json",
    ).ended(0).json["spec"]  # fmt: skip
    assert spec["workload"]["pairs"] == [[100, 20], [300, 40]]
    assert spec["operating_point"] == "goodput"
    fp8, kv8 = spec["variants"]
    assert (fp8["name"], fp8["engine"]["quantization"]) == ("fp8", "fp8")
    assert [v["engine"]["max_num_batched_tokens"] for v in (fp8, kv8)] == [1024, 512]
    assert kv8["engine"]["kv_cache_dtype"] == "fp8"
    changed = cli(
        "models update opt-125m --prompt-variation 0.5 --variant none --point knee --no-wait --json"
    ).json["spec"]
    assert (changed["workload"]["shape"], changed["workload"]["pairs"]) == ("lognormal", [])
    assert (changed["variants"], changed["operating_point"]) == ([], "knee")
    assert "lognormal 0.5/0" in cli("models show opt-125m").out
    for text in ("fp8", "quantization=fp8", "name=fp8,colour=red", "name=", "name=fp8,,"):
        cli("models add opt-125m --variant", text).refused(2, "--variant")
