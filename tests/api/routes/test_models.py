"""/models registers, changes and removes models, and keeps HTTP's promises for each."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond import serde
from partitiond.api.app import create_app
from partitiond.api.schemas import ApiOptions, suggested_name
from partitiond.core.errors import SpecError
from partitiond.core.model.workload import Workload
from partitiond.core.profile.jobs import ProfileOptions
from tests.api.conftest import TOKEN
from tests.api.fake_service import FakeService

DUMMY = {"model": "opt-125m", "weights": "dummy"}


async def register(http: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await http.post("/models", json=DUMMY | body)


async def test_a_catalog_name_is_all_it_takes(http: httpx.AsyncClient) -> None:
    answer = await http.post("/models", json={"model": "opt-125m"})
    assert answer.status_code == 201
    assert answer.headers["location"] == "/models/opt-125m"
    assert answer.headers["etag"] == '"1"'
    spec = answer.json()["spec"]
    assert spec["name"] == "opt-125m"
    assert spec["source"]["ref"] == "facebook/opt-125m"
    load = spec["workload"]
    assert (load["prompt_tokens"], load["output_tokens"], load["shape"]) == (512, 256, "fixed")
    assert (await http.get(answer.headers["location"])).json()["record"] == answer.json()


async def test_registering_the_same_again_changes_nothing(http: httpx.AsyncClient) -> None:
    first = await register(http)
    again = await register(http)
    assert again.status_code == 200
    assert again.json() == first.json()
    other = await register(http, demand={"req_per_s": 2})
    assert other.status_code == 409
    assert other.json()["code"] == "conflict"
    assert other.json()["hint"]


async def test_what_was_read_can_be_registered_elsewhere(http: httpx.AsyncClient) -> None:
    """A record's specification is a valid body: nothing is lost between two daemons."""
    await register(http, slo={"ttft_seconds": 1, "tpot_seconds": 0.1}, max_replicas=3)
    spec = (await http.get("/models/opt-125m")).json()["record"]["spec"]
    again = await http.post("/models", json=spec)
    assert again.status_code == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "either model or source"),
        ({"model": "opt-125"}, "is no model"),
        ({"model": "/does/not/exist"}, "does not exist"),
        ({"model": "/tmp\0"}, "null"),
        ({"model": "/x" * 3000}, "too long"),
        ({"model": "./here"}, "relative"),
        ({"model": "opt-125m", "demand": {"req_per_s": 1e12}}, "requests/s"),
        ({"model": "opt-125m", "demand": {"req_per_s": 0}}, "requests/s"),
        ({"model": "opt-125m", "workload": {"prompt_tokens": 0}}, "prompt_tokens"),
        ({"model": "opt-125m", "workload": {"prompt": 1}}, "workload.prompt"),
        ({"model": "opt-125m", "slo": {"ttft_seconds": -1, "tpot_seconds": 1}}, "ttft_seconds"),
        ({"model": "opt-125m", "slo": {"ttft_seconds": 1}}, "slo.tpot_seconds"),
        ({"model": "opt-125m", "name": "Not A Name"}, "no model name"),
        ({"model": "opt-125m", "weights": "light"}, "weights"),
        ({"model": "opt-125m", "engine": {"dtype": "int3"}}, "engine.dtype"),
        ({"model": "opt-125m", "min_replicas": 3, "max_replicas": 1}, "max_replicas"),
        ({"model": "opt-125m", "colour": "red"}, "colour"),
        ({"source": {"kind": "folder", "ref": "here"}}, "relative"),
    ],
)
async def test_bad_registrations_are_refused_with_words(
    http: httpx.AsyncClient, body: dict[str, Any], words: str
) -> None:
    answer = await http.post("/models", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]
    assert answer.json()["hint"]
    assert (await http.get("/models")).json() == []


async def test_folders_outside_the_allowed_ones_are_refused(
    service: FakeService, tmp_path: Path
) -> None:
    allowed = tmp_path / "allowed"
    inside, outside = allowed / "m", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
    (allowed / "link").symlink_to(outside)
    options = ApiOptions(allow_folders=(allowed,))
    app = create_app(service, admin_token=TOKEN, options=options)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://daemon",
        headers={"Authorization": f"Bearer {TOKEN}"},
    ) as http:
        for folder in (outside, allowed / "link", allowed / ".." / "outside"):
            answer = await http.post("/models", json={"model": str(folder)})
            assert answer.status_code == 422
            assert "outside" in answer.json()["detail"]
            source = {"kind": "folder", "ref": str(folder)}
            answer = await http.post("/models", json={"source": source})
            assert answer.status_code == 422
        assert (await http.post("/models", json={"model": str(inside)})).status_code == 201


async def test_engine_flags_are_checked(http: httpx.AsyncClient) -> None:
    refused = {"engine": {"extra_args": ["--port=1"]}}
    answer = await http.post("/models", json=DUMMY | refused)
    assert answer.status_code == 422
    assert "--port" in answer.json()["detail"]
    await register(http)
    assert (await http.patch("/models/opt-125m", json=refused)).status_code == 422


async def test_another_kind_of_engine_is_checked_with_the_flags_there_are(
    http: httpx.AsyncClient,
) -> None:
    flags = {"extra_args": ["--token-seconds=0.01"]}
    await register(http, engine_kind="simulated", engine=flags)
    refused = await http.patch("/models/opt-125m", json={"engine_kind": "vllm"})
    assert refused.status_code == 422
    assert "--token-seconds" in refused.json()["detail"]
    assert (await http.patch("/models/opt-125m", json={"engine_kind": "x"})).status_code == 422
    changes = {"engine_kind": None, "engine": {"extra_args": None}}
    changed = await http.patch("/models/opt-125m", json=changes)
    assert changed.json()["spec"]["engine_kind"] == "vllm"


async def test_a_patch_changes_what_it_names(http: httpx.AsyncClient) -> None:
    await register(http, slo={"ttft_seconds": 1, "tpot_seconds": 0.1}, max_replicas=3)
    answer = await http.patch(
        "/models/opt-125m",
        json={"slo": {"ttft_seconds": 2}, "demand": {"req_per_s": 5}, "max_replicas": None},
    )
    assert answer.status_code == 200
    assert answer.headers["etag"] == '"2"'
    spec = answer.json()["spec"]
    assert spec["slo"] == {"ttft_seconds": 2, "tpot_seconds": 0.1, "quantile": 0.95}
    assert spec["demand"]["req_per_s"] == 5
    assert spec["max_replicas"] is None
    assert spec["weights"] == "dummy"
    answer = await http.patch("/models/opt-125m", json={"slo": None})
    assert answer.json()["spec"]["slo"] is None


async def test_a_patch_that_changes_nothing_keeps_the_version(http: httpx.AsyncClient) -> None:
    await register(http)
    answer = await http.patch("/models/opt-125m", json={"workload": {"prompt_tokens": 512}})
    assert answer.headers["etag"] == '"1"'


@pytest.mark.parametrize(
    "body", [{"name": "x"}, {"weights": "real"}, {"demand": {"req_per_s": -1}}, {"slo": {}}]
)
async def test_bad_patches_change_nothing(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    await register(http)
    assert (await http.patch("/models/opt-125m", json=body)).status_code == 422
    assert (await http.get("/models/opt-125m")).headers["etag"] == '"1"'


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_if_match_guards_against_lost_changes(http: httpx.AsyncClient, method: str) -> None:
    await register(http)
    await http.patch("/models/opt-125m", json={"auto": False})
    body = {"min_replicas": 1} if method == "PATCH" else None
    stale = await http.request(method, "/models/opt-125m", json=body, headers={"If-Match": '"1"'})
    assert stale.status_code == 412
    assert stale.json()["code"] == "precondition_failed"
    nonsense = await http.request(
        method, "/models/opt-125m", json=body, headers={"If-Match": '"x"'}
    )
    assert nonsense.status_code == 422
    endless = await http.request(
        method, "/models/opt-125m", json=body, headers={"If-Match": "9" * 5000}
    )
    assert endless.status_code == 422
    assert len(endless.json()["detail"]) < 200
    fresh = await http.request(method, "/models/opt-125m", json=body, headers={"If-Match": '"2"'})
    assert fresh.is_success


async def test_a_change_between_look_and_write_is_noticed(
    http: httpx.AsyncClient, service: FakeService
) -> None:
    await register(http)
    service.models.change_before_update = True
    for method, body in (("PATCH", {"auto": False}), ("DELETE", None)):
        version = service.models.model("opt-125m").record.version
        answer = await http.request(
            method, "/models/opt-125m", json=body, headers={"If-Match": f'"{version}"'}
        )
        assert answer.status_code == 412
        answer = await http.request(method, "/models/opt-125m", json=body)
        assert answer.status_code == 409


async def test_a_model_in_use_is_a_conflict_and_no_stale_version(
    http: httpx.AsyncClient, service: FakeService
) -> None:
    await register(http)
    service.models.in_use = True
    answer = await http.patch(
        "/models/opt-125m", json={"engine": {"dtype": "float32"}}, headers={"If-Match": '"1"'}
    )
    assert answer.status_code == 409


async def test_removing(http: httpx.AsyncClient) -> None:
    await register(http)
    answer = await http.delete("/models/opt-125m")
    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "PATCH", "DELETE"):
        gone = await http.request(method, "/models/opt-125m", json={})
        assert gone.status_code == 404
        assert gone.json()["code"] == "not_found"


async def test_measuring_is_a_job(http: httpx.AsyncClient, service: FakeService) -> None:
    await register(http)
    answer = await http.post(
        "/models/opt-125m/profile", json={"cores": 1, "memory_bytes": "2GiB", "max_batch": 8}
    )
    assert answer.status_code == 202
    job = await http.get(answer.headers["location"])
    assert job.json()["state"] == "queued"
    assert service.models.asked == [ProfileOptions(cores=1, memory_bytes=2 << 30, max_batch=8)]
    assert (await http.post("/models/opt-125m/profile")).status_code == 202
    assert (await http.post("/models/none/profile")).status_code == 404
    refused = await http.post("/models/opt-125m/profile", json={"memory_bytes": "much"})
    assert refused.status_code == 422


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("org/Model-1.5B", "model-1.5b"),
        ("/srv/models/My Model/", "my-model"),
        ("org/_x", "x"),
        ("o/" + "a" * 99, "a" * 63),
    ],
)
def test_names_follow_from_sources(ref: str, name: str) -> None:
    assert suggested_name(ref) == name


def test_no_name_follows_from_nothing() -> None:
    with pytest.raises(SpecError, match="no name"):
        suggested_name("///")


async def test_lengths_variants_and_point_are_registered_and_sent_back(
    http: httpx.AsyncClient,
) -> None:
    made = await register(
        http,
        workload={"prompt_tokens": 400, "prompt_variation": 1.1},
        slo={"ttft_seconds": 1, "tpot_seconds": 0.1},
        engine={"max_num_batched_tokens": 1024},
        variants=[
            {"name": "fp8", "engine": {"quantization": "fp8"}},
            {"name": "awq", "model": "org/opt-125m-awq", "engine": {"dtype": "float16"}},
        ],
        operating_point="goodput",
    )
    assert made.status_code == 201, made.text
    spec = made.json()["spec"]
    assert spec["workload"]["shape"] == "lognormal"
    fp8, awq = spec["variants"]
    assert (fp8["engine"]["quantization"], fp8["engine"]["max_num_batched_tokens"]) == ("fp8", 1024)
    assert awq["source"] == {"kind": "hub", "ref": "org/opt-125m-awq", "revision": None}
    assert awq["engine"]["dtype"] == "float16"
    again = await http.post("/models", json=spec)  # what was read can be sent back as it is
    assert again.status_code == 200, again.text


async def test_a_patch_changes_shape_variants_and_point(http: httpx.AsyncClient) -> None:
    await register(http, variants=[{"name": "fp8", "engine": {"quantization": "fp8"}}])

    async def patched(**changes: object) -> Any:
        answer = await http.patch("/models/opt-125m", json=changes)
        assert answer.status_code == 200, answer.text
        return answer.json()["spec"]

    traced = await patched(workload={"pairs": [[10, 4], [30, 8]]})
    assert (traced["workload"]["shape"], traced["workload"]["prompt_tokens"]) == ("trace", 20)
    assert [v["name"] for v in traced["variants"]] == ["fp8"]
    fixed = await patched(workload={"shape": "fixed"}, variants=None, operating_point="throughput")
    assert fixed["workload"]["pairs"] == []
    assert (fixed["variants"], fixed["operating_point"]) == ([], "throughput")
    assert (await patched(workload=None))["workload"]["prompt_tokens"] == 512
    assert (await patched(operating_point=None))["operating_point"] == "default"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"workload": {"shape": "lognormal"}}, "variation"),
        ({"workload": {"pairs": [[1, 0]]}}, "between 1"),
        ({"workload": {"pairs": [[1, 2, 3]]}}, "pairs"),
        ({"workload": {"shape": "square"}}, "shape"),
        ({"workload": {"pairs": [[1, 2]] * 1025}}, "1024"),
        ({"operating_point": "slo"}, "needs an SLO"),
        ({"operating_point": "best"}, "operating_point"),
        ({"engine": {"quantization": "int3"}}, "quantization"),
        ({"engine": {"max_num_batched_tokens": 1}}, "16"),
        ({"variants": [{"name": "FP8"}]}, "variant"),
        ({"variants": [{"name": "a"}, {"name": "a"}]}, "differently"),
        ({"variants": [{"name": "a", "engine": {"extra_args": ["--port"]}}]}, "--port"),
        ({"variants": [{"name": "a", "model": "./x"}]}, "relative"),
        ({"variants": [{"name": "a", "colour": "red"}]}, "colour"),
        ({"variants": [{"name": "a", "engine": {"max_model_len": 64}}]}, "context of 64"),
    ],
)
async def test_what_is_wrong_with_lengths_variants_and_points_is_said(
    http: httpx.AsyncClient, body: dict[str, Any], says: str
) -> None:
    answer = await http.post("/models", json=DUMMY | body)
    assert answer.status_code == 422, answer.text
    assert says in answer.json()["detail"] + answer.json()["hint"]


async def test_a_profile_job_takes_its_options(
    http: httpx.AsyncClient, service: FakeService
) -> None:
    await register(http, variants=[{"name": "fp8", "engine": {"quantization": "fp8"}}])
    body = {
        "variant": "fp8",
        "workload": {"pairs": [[10, 4]]},
        "max_num_batched_tokens": 512,
        "kv_cache_dtype": "fp8",
        "structured_output": True,
        "confirm": False,
        "paper_requests": 100,
    }
    assert (await http.post("/models/opt-125m/profile", json=body)).status_code == 202
    (asked,) = service.models.asked
    assert asked.workload == Workload.of_trace([(10, 4)])
    assert (asked.variant, asked.kv_cache_dtype, asked.confirm) == ("fp8", "fp8", False)
    assert (asked.structured_output, asked.paper_requests) == (True, 100)
    sent = serde.to_jsonable(asked)  # as the client sends it
    assert (await http.post("/models/opt-125m/profile", json=sent)).status_code == 202
    assert service.models.asked[1] == asked
    wrong = {"workload": {"shape": "trace"}}
    assert (await http.post("/models/opt-125m/profile", json=wrong)).status_code == 422


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"variant": "fp8"}, "lists no variant"),
        ({"memory_bytes": 0}, "memory_bytes"),
        ({"max_num_batched_tokens": 10**12}, "max_num_batched_tokens"),
    ],
)
async def test_a_profile_that_could_only_fail_is_refused_before_it_is_a_job(
    http: httpx.AsyncClient, service: FakeService, body: dict[str, Any], says: str
) -> None:
    await register(http)
    answer = await http.post("/models/opt-125m/profile", json=body)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert service.models.asked == []


async def test_a_change_cannot_make_requests_too_long_for_a_variant(
    http: httpx.AsyncClient,
) -> None:
    await register(http, variants=[{"name": "short", "engine": {"max_model_len": 800}}])
    longer = {"workload": {"prompt_tokens": 900}}
    answer = await http.patch("/models/opt-125m", json=longer)
    assert answer.status_code == 422
    assert "short" in answer.json()["detail"]
