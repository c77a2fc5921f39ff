"""/models registers, changes and removes models, and keeps HTTP's promises for each.

`test_one_field.py` goes through the fields of a specification, one by one.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond import serde
from partitiond.api.app import create_app
from partitiond.controller.profiles.params import ProfilingOptions, params_of
from partitiond.core.errors import SpecError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSpec
from partitiond.core.model.workload import Workload
from partitiond.core.profile.jobs import ProfileOptions
from partitiond.fleet.registration import RegistrationRules, suggested_name
from tests.api.conftest import asking
from tests.controller.host import Host
from tests.controller.samples import ARCHITECTURE, cpu
from tests.machine import until

DUMMY = {"model": "opt-125m", "weights": "dummy"}
HERE = "/models/opt-125m"


async def register(http: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await http.post("/models", json=DUMMY | body)


async def test_a_catalog_name_is_all_it_takes(http: httpx.AsyncClient) -> None:
    dry = await http.post("/models?dry_run=true", json={"model": "opt-125m"})
    assert not {"etag", "location"} & {*dry.headers}, "nothing is stored"
    answer = await http.post("/models", json={"model": "opt-125m"})
    assert (answer.status_code, dry.json()) == (201, answer.json())
    assert (answer.headers["location"], answer.headers["etag"]) == (HERE, '"1"')
    spec = answer.json()["spec"]
    assert (spec["name"], spec["source"]["ref"]) == ("opt-125m", "facebook/opt-125m")
    load = spec["workload"]
    assert (load["prompt_tokens"], load["output_tokens"], load["shape"]) == (512, 256, "fixed")
    assert (await http.get(HERE)).json()["record"] == answer.json()
    other = await http.post("/models", json={"model": "opt-125m", "demand": {"req_per_s": 2}})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    assert other.json()["hint"]


async def test_what_names_no_model_is_refused_with_words(http: httpx.AsyncClient) -> None:
    for body, words in (
        ({}, "either model or source"),
        ({"model": "opt-125"}, "is no model"),
        ({"model": "/does/not/exist"}, "does not exist"),
        ({"model": "/tmp\0"}, "null"),
        ({"model": "/x" * 3000}, "too long"),
        ({"model": "./here"}, "relative"),
        ({"source": {"kind": "folder", "ref": "here"}}, "relative"),
        ({"model": "opt-125m", "name": "Not A Name"}, "no model name"),
        ({"model": "opt-125m", "weights": "light"}, "weights"),
    ):
        answer = await http.post("/models", json=body)
        assert answer.status_code == 422, answer.text
        assert words in answer.json()["detail"]
        assert answer.json()["hint"]
    assert (await http.get("/models")).json() == []


async def test_folders_outside_the_allowed_ones_are_refused(host: Host, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    inside, outside = allowed / "m", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
    (allowed / "link").symlink_to(outside)
    options = RegistrationRules(allow_folders=(allowed,))
    async with asking(
        create_app(host.service, admin_token="x" * 20, options=options), "x" * 20
    ) as http:
        for folder in (outside, allowed / "link", allowed / ".." / "outside"):
            for body in (
                {"model": str(folder)},
                {"source": {"kind": "folder", "ref": str(folder)}},
            ):
                answer = await http.post("/models", json=body)
                assert answer.status_code == 422
                assert "outside" in answer.json()["detail"]
        assert (await http.post("/models", json={"model": str(inside)})).status_code == 201
        moved = {"source": {"kind": "folder", "ref": str(outside)}}
        assert (await http.patch("/models/m", json=moved)).status_code == 422


async def test_another_kind_of_engine_is_checked_with_the_flags_there_are(
    http: httpx.AsyncClient,
) -> None:
    flags = {"extra_args": ["--token-seconds=0.01"]}
    await register(http, engine_kind="simulated", engine=flags)
    refused = await http.patch(HERE, json={"engine_kind": "vllm"})
    assert refused.status_code == 422
    assert "--token-seconds" in refused.json()["detail"]
    changes = {"engine_kind": None, "engine": {"extra_args": None}}
    changed = await http.patch(HERE, json=changes)
    assert changed.json()["spec"]["engine_kind"] == "vllm"


async def test_a_patch_merges_what_it_names(http: httpx.AsyncClient) -> None:
    await register(http, slo={"ttft_seconds": 1, "tpot_seconds": 0.1}, max_replicas=3)
    body = {"slo": {"ttft_seconds": 2}, "demand": {"req_per_s": 5}, "max_replicas": None}
    merge = {"Content-Type": "application/merge-patch+json"}
    dry = await http.patch(f"{HERE}?dry_run=true", json=body)
    assert "etag" not in dry.headers
    answer = await http.patch(HERE, json=body, headers=merge)
    spec = answer.json()["spec"]
    assert answer.headers["etag"] == '"2"'
    assert spec["slo"] == {"ttft_seconds": 2, "tpot_seconds": 0.1, "quantile": 0.95}
    assert (spec["demand"]["req_per_s"], spec["max_replicas"]) == (5, None)
    assert spec["weights"] == "dummy"
    for wrong in ({"name": "x"}, {"weights": "real"}):
        assert (await http.patch(HERE, json=wrong)).status_code == 422
    assert (await http.get(HERE)).headers["etag"] == '"2"'


async def test_lengths_change_their_shape(http: httpx.AsyncClient) -> None:
    async def patched(**changes: object) -> Any:
        answer = await http.patch(HERE, json={"workload": changes or None})
        assert answer.status_code == 200, answer.text
        return answer.json()["spec"]["workload"]

    made = await register(http, workload={"prompt_tokens": 400, "prompt_variation": 1.1})
    assert made.json()["spec"]["workload"]["shape"] == "lognormal"
    traced = await patched(pairs=[[10, 4], [30, 8]])
    assert (traced["shape"], traced["prompt_tokens"]) == ("trace", 20)
    fixed = await patched(shape="fixed")
    assert (fixed["shape"], fixed["pairs"]) == ("fixed", [])
    assert (await patched())["prompt_tokens"] == 512


async def test_a_variant_differs_from_the_models_engine_in_what_it_names(
    http: httpx.AsyncClient,
) -> None:
    made = await register(
        http,
        engine={"max_num_batched_tokens": 1024},
        variants=[
            {"name": "fp8", "engine": {"quantization": "fp8"}},
            {"name": "awq", "model": "org/opt-125m-awq", "engine": {"dtype": "float16"}},
        ],
    )
    fp8, awq = made.json()["spec"]["variants"]
    assert (fp8["engine"]["quantization"], fp8["engine"]["max_num_batched_tokens"]) == ("fp8", 1024)
    assert awq["source"] == {"kind": "hub", "ref": "org/opt-125m-awq", "revision": None}
    assert awq["engine"]["dtype"] == "float16"


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_if_match_guards_against_lost_changes(
    http: httpx.AsyncClient, host: Host, method: str
) -> None:
    await register(http)
    await register(http, name="other")
    await http.patch(HERE, json={"auto": False})
    body: Any = {"min_replicas": 1} if method == "PATCH" else None

    async def asked(**headers: str) -> httpx.Response:
        return await http.request(method, HERE, json=body, headers=headers)

    stale = await asked(**{"If-Match": '"1"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    for nonsense in ('"x"', "9" * 5000):
        refused = await asked(**{"If-Match": nonsense})
        assert refused.status_code == 422
        assert len(refused.json()["detail"]) < 200
    if method == "PATCH":
        body = {"aliases": ["other"]}
        assert (await asked(**{"If-Match": '"2"'})).status_code == 409, "no stale version"
        body = {"min_replicas": 1}
        host.resolver.architecture = changes_meanwhile(host)  # type: ignore[method-assign, assignment]
        assert (await asked(**{"If-Match": '"2"'})).status_code == 412
        assert (await asked()).status_code == 409
        del host.resolver.architecture
    else:
        host.profiler.gate.clear()
        host.profiler.stops.clear()
        await http.post(f"{HERE}/profile")
        await until(lambda: bool(host.profiler.requests))
        removed = asyncio.create_task(asked(**{"If-Match": '"2"'}))
        await until(lambda: bool(host.profiler.cancelled))
        await changes_meanwhile(host)(host.store.model("opt-125m").spec)
        host.profiler.stops.set()
        assert (await removed).status_code == 412
    now = host.store.model("opt-125m").version
    assert (await asked(**{"If-Match": f'"{now}"'})).is_success


def changes_meanwhile(host: Host) -> Callable[[ModelSpec], Coroutine[Any, Any, Architecture]]:
    """Between the look at a model and its change, another caller changes it."""

    async def looked_at(spec: ModelSpec) -> Architecture:
        old = host.store.model(spec.name)
        new = dataclasses.replace(old, version=old.version + 1)
        host.store.update_model(new, expected_version=old.version)
        return ARCHITECTURE

    return looked_at


async def test_a_removed_model_is_gone(http: httpx.AsyncClient) -> None:
    await register(http)
    answer = await http.delete(HERE)
    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "PATCH", "DELETE"):
        gone = await http.request(method, HERE, json={})
        assert (gone.status_code, gone.json()["code"]) == (404, "not_found")


async def test_a_profile_job_takes_its_options(http: httpx.AsyncClient, host: Host) -> None:
    fp8 = {"name": "fp8", "engine": {"quantization": "fp8"}}
    await register(http, variants=[fp8], auto=False)
    host.profiler.gate.clear()
    body = {"cores": 1, "memory_bytes": "2GiB", "max_batch": 8}
    made = await http.post(f"{HERE}/profile", json=body)
    assert made.status_code == 202
    assert (await http.get(made.headers["location"])).json() == made.json()
    assert (await http.post(f"{HERE}/profile")).status_code == 202
    options = ProfileOptions(
        variant="fp8",
        workload=Workload.of_trace([(10, 4)]),
        max_num_batched_tokens=512,
        kv_cache_dtype="fp8",
        confirm=False,
        paper_requests=100,
    )
    body = serde.to_jsonable(options)  # as the client sends it
    same = {**body, "workload": {"pairs": [[10, 4]]}}
    before = {**body, "fresh": ""}  # as clients of the release before send it
    for sent in (body, same, before):
        assert (await http.post(f"{HERE}/profile", json=sent)).status_code == 202
    asked = (ProfileOptions(cores=1, memory_bytes=2 << 30, max_batch=8), ProfileOptions(), options)
    wanted = {params_of(one, [cpu()], ProfilingOptions()) for one in asked}
    assert {job.params for job in host.jobs()} == wanted
    assert (await http.post("/models/none/profile")).status_code == 404
    for wrong, says in (
        ({"variant": "int4"}, "lists no variant"),
        ({"memory_bytes": 0}, "memory_bytes"),
        ({"memory_bytes": "much"}, "memory_bytes"),
        ({"max_num_batched_tokens": 10**12}, "max_num_batched_tokens"),
        ({"workload": {"shape": "trace"}}, "pairs"),
    ):
        answer = await http.post(f"{HERE}/profile", json=wrong)
        assert answer.status_code == 422
        assert says in answer.json()["detail"] + answer.json()["hint"]
    assert len(host.jobs()) == 3, "what could only fail is no job"


def test_names_follow_from_sources() -> None:
    for ref, name in (
        ("org/Model-1.5B", "model-1.5b"),
        ("/srv/models/My Model/", "my-model"),
        ("org/_x", "x"),
        ("o/" + "a" * 99, "a" * 63),
    ):
        assert suggested_name(ref) == name
    with pytest.raises(SpecError, match="no name"):
        suggested_name("///")
