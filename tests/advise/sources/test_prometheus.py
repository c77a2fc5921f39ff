"""Engine metrics that a Prometheus has kept are read through its HTTP API."""

import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from partitiond.advise.observe import observe
from partitiond.advise.sources.prometheus import TOKEN_VARIABLE, Prometheus
from partitiond.advise.traffic import traffic_of
from partitiond.core.errors import SpecError, UpstreamError

NOW = 1_800_000_000.0
HOUR = 3600.0
Labels = dict[str, str]
Series = tuple[Labels, Callable[[float], float | None]]

_SELECTOR = re.compile(r"\{(.*?)\}(?=\[|\)|$)")
_MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')


class Kept:
    """Series as functions of the time since NOW - 1 h, asked in the little PromQL that is used."""

    def __init__(self, *series: Series) -> None:
        self.series = series
        self.queries: list[str] = []
        self.headers: list[httpx.Headers] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        asked = {key: values[0] for key, values in parse_qs(request.url.query.decode()).items()}
        query = asked["query"]
        self.queries.append(query)
        self.headers.append(request.headers)
        if request.url.path == "/api/v1/query":
            result = list(self.instant(query))
        else:
            steps = (float(asked[name]) for name in ("start", "end", "step"))
            result = list(self.matrix(query, *steps))
        return httpx.Response(200, json={"status": "success", "data": {"result": result}})

    def matching(self, query: str) -> Iterator[Series]:
        selector = _SELECTOR.search(query)
        plain = re.search(r"DCGM_\w+", query)
        matchers = _MATCHER.findall(selector[1]) if selector else []
        if not selector:
            matchers = [("__name__", "=", plain[0] if plain else query)]
        for labels, value in self.series:
            if all(
                re.fullmatch(text, labels.get(name, ""))
                if how == "=~"
                else labels.get(name) == text
                for name, how, text in matchers
            ):
                bare = {k: v for k, v in labels.items() if k != "__name__"}
                yield (bare if "(" in query.partition("{")[0] else labels), value

    def matrix(self, query: str, start: float, end: float, step: float) -> Iterator[Any]:
        for labels, value in self.matching(query):
            moments = [start + n * step for n in range(int((end - start) / step) + 1)]
            told = [(at, value(at - NOW + HOUR)) for at in moments]
            values = [[at, str(v)] for at, v in told if v is not None]
            if values:
                yield {"metric": labels, "values": values}

    def instant(self, query: str) -> Iterator[Any]:
        for labels, value in self.matching(query):
            last = value(HOUR)
            if last is None:
                continue
            first = value(0.0) or 0.0
            yield {
                "metric": labels,
                "value": [NOW, str(last - first if query.startswith("increase") else last)],
            }


def engine(pod: str, model: str, per_second: float) -> list[Series]:
    """An engine with a steady load, but twice as much in the last quarter of an hour."""

    def ended(at: float) -> float:
        return 500 + per_second * (at + max(0.0, at - 2700))

    labels = {"pod": pod, "instance": f"{pod}:8000", "model_name": model, "engine": "0"}
    named = {**labels, "__name__": "vllm:request_success_total", "finished_reason": "stop"}
    found: list[Series] = [
        (named, ended),
        ({**labels, "__name__": "vllm:num_requests_running"}, lambda at: float(at < 1800)),
        ({**labels, "__name__": "vllm:kv_cache_usage_perc"}, lambda at: 0.3 if at < 900 else 0.1),
        ({"pod": pod, "__name__": "vllm:cache_config_info", "engine": "0", "block_size": "16",
          "num_gpu_blocks": "1001"}, lambda _: 1.0),
    ]  # fmt: skip

    def times(factor: float) -> Callable[[float], float]:
        return lambda at: factor * ended(at)

    for kind, tokens in (("prompt", 300.0), ("generation", 40.0)):
        base = f"vllm:request_{kind}_tokens"
        found += [
            ({**labels, "__name__": f"{base}_sum"}, times(tokens)),
            ({**labels, "__name__": f"{base}_count"}, ended),
        ]
        for bound in (50.0, 500.0, math.inf):
            le = "+Inf" if math.isinf(bound) else str(bound)
            name = {**labels, "__name__": f"{base}_bucket", "le": le}
            found.append((name, times(float(tokens <= bound))))
    return found


def gpu(uuid: str, pod: str, util: float) -> list[Series]:
    labels = {"UUID": uuid, "modelName": "NVIDIA A100-SXM4-80GB", "Hostname": "n1", "pod": pod}
    return [
        ({**labels, "__name__": "DCGM_FI_DEV_GPU_UTIL"}, lambda _: util),
        ({**labels, "__name__": "DCGM_FI_DEV_FB_USED"}, lambda _: 70_000.0),
        ({**labels, "__name__": "DCGM_FI_DEV_FB_FREE"}, lambda _: 11_000.0),
    ]


def source(kept: Kept, select: str = "") -> Prometheus:
    return Prometheus("http://prometheus:9090", select, httpx.MockTransport(kept.answer))


def test_it_tells_the_same_as_looking_would_with_gpus_and_pods() -> None:
    found = source(Kept(*engine("p0", "m", 2.0), *engine("p1", "m", 1.0))).kept(HOUR, NOW)
    (model,) = traffic_of(observe(found.scrapes), 900)

    assert found.seconds == HOUR
    assert {e.key.address for e in model.engines} == {"p0", "p1"}
    # The gauge falls once by one a pod: two requests less were new than ended.
    assert model.mean.middle == pytest.approx(3.0 * (HOUR + 900) / HOUR, rel=0.01)
    assert model.busiest.middle == pytest.approx(6.0, rel=0.01)
    assert model.prompt is not None
    assert model.prompt.mean == pytest.approx(300)
    assert model.prompt.longest == 500
    assert model.output is not None
    assert model.output.mean == pytest.approx(40)
    assert model.idle.share == pytest.approx(0.5, abs=0.02)
    assert model.peak_kv_tokens == pytest.approx(2 * 0.3 * 16_000)
    kept = Kept(*engine("p0", "m", 2.0), *gpu("GPU-a", "p0", 12.0), *gpu("GPU-b", "other", 80.0))
    today = source(kept).kept(HOUR, NOW).today

    assert [d.id for d in today.devices] == ["GPU-a", "GPU-b"]
    assert {d.hardware for d in today.devices} == {"a100-80gb"}
    assert today.on == {"p0": ("GPU-a",)}
    assert today.busy == {"GPU-a": 0.12, "GPU-b": 0.8}
    assert today.devices[0].free_bytes == today.devices[0].memory_bytes
    assert not set(today.devices[0].cores) & set(today.devices[1].cores)


def test_matchers_narrow_every_query_about_engines_in_bounded_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    kept = Kept(*engine("p0", "m", 2.0), *engine("p1", "other", 2.0))
    found = source(kept, '{pod="p1"}').kept(30 * 86_400, NOW)
    assert set(found.scrapes) == {"p1"}
    assert len(found.scrapes["p1"]) <= 2001
    assert found.today.devices == (), "there is no exporter"
    assert all('pod="p1"' in query for query in kept.queries if "vllm:" in query)
    assert {headers["authorization"] for headers in kept.headers} == {"Bearer secret"}


def test_addresses_that_are_none_are_refused() -> None:
    for address in ("prometheus:9090", "http://[::1"):
        with pytest.raises(SpecError, match="no address of a Prometheus"):
            Prometheus(address)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, '{"status":"error","error":"parse error: bad matcher"}', "bad matcher"),
        (401, "Unauthorized", "does not answer as one"),
        (500, "boom", "HTTP 500"),
        (200, "<html>", "not what its API answers"),
        (200, "[]", "not what its API answers"),
        (200, '{"status":"success","data":null}', "does not answer as one"),
        (200, '{"status":"success","data":{"result":[]}}', "knows no vLLM"),
        (200, '{"status":"success","data":{"result":[1,{"metric":3}]}}', "knows no vLLM"),
    ],
)
def test_what_is_no_prometheus_of_engines_is_said(status: int, body: str, words: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text=body))
    with pytest.raises(UpstreamError, match=words):
        Prometheus("http://p:9090", "", transport).kept(HOUR, NOW)


@pytest.mark.parametrize("drip", [False, True])
def test_one_that_hangs_is_given_up_at_the_first_query(drip: bool) -> None:
    queries: list[str] = []

    class Pieces(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield from itertools.repeat(b" ")

    def hang(request: httpx.Request) -> httpx.Response:
        queries.append(str(request.url))
        if not drip:
            raise httpx.ReadTimeout("", request=request)
        return httpx.Response(200, stream=Pieces())

    prometheus = Prometheus("http://p:9090", "", httpx.MockTransport(hang), first_seconds=0.05)
    with pytest.raises(UpstreamError, match=r"no whole answer within 0\.05 s"):
        prometheus.kept(HOUR, NOW)
    assert len(queries) == 1
