"""Reads from a Prometheus the same scrapes as if the engines had been watched, and the GPUs.

Counters and gauges are queried at regular times (`query_range`), like a look every step. Histograms
are many series, so only their increase over the whole range is queried; the peak of the KV cache is
its largest value between two times. If a DCGM exporter is scraped, too, it tells the GPUs, how busy
they are and, on Kubernetes, which pod is on which GPU.
"""

import dataclasses
import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx

from partitiond.advise import readings
from partitiond.advise.exposition import Sample, Scrape, number
from partitiond.advise.today import CORES_PER_DEVICE, Deployment, cores_at, emptied
from partitiond.core.errors import SpecError, UpstreamError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.units import MIB, Bytes

TIMEOUT_SECONDS: Final = 60.0
"""Deadline of one query: a week of a large cluster takes some of it."""
FIRST_SECONDS: Final = 10.0
"""A wrong address, or a server that hangs, is reported after this time."""
MIN_STEP_SECONDS: Final = 15.0
"""Prometheus scrapes every 15 to 60 s; a finer step tells nothing new. Chosen, not measured."""
MAX_STEPS: Final = 2000
"""Prometheus refuses more than 11,000; a week in steps of five minutes is 2,016."""
TOKEN_VARIABLE: Final = "PROMETHEUS_TOKEN"  # noqa: S105
"""Environment variable with a bearer token, if the server requires one."""
PLACES: Final = ("pod", "exported_pod", "instance")
"""Labels that distinguish engines; the first that a series has is used."""


@dataclasses.dataclass(frozen=True, slots=True)
class PrometheusData:
    """The data of a Prometheus.

    Attributes:
        scrapes: scrapes of each pod or instance, in the order of time.
        today: GPUs by a DCGM exporter; without devices if there is none.
        seconds: length of the range.
    """

    scrapes: Mapping[str, tuple[Scrape, ...]]
    today: Deployment
    seconds: float


class Prometheus:
    """Queries a Prometheus by its HTTP API.

    Args:
        url: such as "http://prometheus:9090"; it may contain a user and password.
        select: label matchers for the engines' series, such as 'namespace="llm"'.
        transport: replaces the HTTP transport in tests.
        first_seconds: deadline of a first, trivial query.
    """

    def __init__(
        self,
        url: str,
        select: str = "",
        transport: httpx.BaseTransport | None = None,
        first_seconds: float = FIRST_SECONDS,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise SpecError(
                f"{url!r} is no address of a Prometheus.", hint="As http://127.0.0.1:9090."
            )
        token = os.environ.get(TOKEN_VARIABLE)
        self._select = select.strip().strip("{}").strip().rstrip(",")
        self._url = url.rstrip("/")
        self._first_seconds = first_seconds
        try:
            self._http = httpx.Client(
                base_url=self._url,
                timeout=TIMEOUT_SECONDS,
                follow_redirects=True,
                headers={"Authorization": f"Bearer {token}"} if token else {},
                transport=transport,
            )
        except httpx.InvalidURL as error:
            raise SpecError(
                f"{url!r} is no address of a Prometheus: {error}.",
                hint="As http://127.0.0.1:9090.",
            ) from error

    def kept(self, range_seconds: float, now: float) -> PrometheusData:
        """Return the data of the last `range_seconds` before `now` (Unix seconds).

        Raises:
            UpstreamError: Prometheus does not answer, refuses, or has no vLLM metrics.
        """
        self._ask("/api/v1/query", {"query": "1", "time": now}, self._first_seconds)
        step = max(MIN_STEP_SECONDS, math.ceil(range_seconds / MAX_STEPS))
        start = now - range_seconds
        samples: dict[str, dict[float, list[Sample]]] = {}
        pods: dict[str, str] = {}

        def add(name: str, labels: Mapping[str, str], at: float, value: float) -> None:
            place = _place(labels)
            pods[place] = labels.get("pod") or labels.get("exported_pod") or ""
            moments = samples.setdefault(place, {})
            moments.setdefault(at - start, []).append(Sample(name, labels, value))

        for query, name in self._range_queries(step):
            for labels, values in self._range(query, start, now, step):
                for at, value in values:
                    add(name or labels["__name__"], labels, at, value)
        if not samples:
            raise UpstreamError(
                f"{self._url} knows no vLLM in the last {range_seconds / 3600:g} hours.",
                after_first_byte=False,
                hint="Check that it scrapes the engines' /metrics; --select narrows by labels.",
            )
        firsts = {place: min(moments) for place, moments in samples.items()}
        lasts = {place: max(moments) for place, moments in samples.items()}
        for name, labels, value in self._histograms(range_seconds, now):
            place = _place(labels)
            if place in samples and lasts[place] > firsts[place]:
                add(name, labels, start + firsts[place], 0.0)
                add(name, labels, start + lasts[place], value)
        scrapes = {
            place: tuple(Scrape(at, tuple(found)) for at, found in sorted(moments.items()))
            for place, moments in samples.items()
        }
        return PrometheusData(scrapes, self._gpus(range_seconds, now, pods), range_seconds)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    # --- queries ------------------------------------------------------------------------------

    def _range_queries(self, step: float) -> Iterator[tuple[str, str]]:
        """Yield queries, each with the metric's name if the query removes it."""
        plain = [n for n in readings.COUNTERS_AND_GAUGES if n not in readings.KV_USAGE]
        yield self._series('__name__=~"' + "|".join(plain) + '"'), ""
        for name in readings.KV_USAGE:
            series = self._series(f'__name__="{name}"')
            yield f"max_over_time({series}[{step:.0f}s])", name

    def _series(self, matcher: str) -> str:
        return "{" + ",".join(filter(None, (matcher, self._select))) + "}"

    def _histograms(
        self, range_seconds: float, now: float
    ) -> Iterator[tuple[str, Mapping[str, str], float]]:
        for names in readings.HISTOGRAMS.values():
            for base in names:
                found = False
                for part in ("bucket", "sum", "count"):
                    series = self._series(f'__name__="{base}_{part}"')
                    for labels, value in self._instant(
                        f"increase({series}[{range_seconds:.0f}s])", now
                    ):
                        found = True
                        yield f"{base}_{part}", labels, value
                if found:
                    break

    def _range(
        self, query: str, start: float, end: float, step: float
    ) -> Iterator[tuple[Mapping[str, str], list[tuple[float, float]]]]:
        data = self._ask(
            "/api/v1/query_range", {"query": query, "start": start, "end": end, "step": step}
        )
        for series in data:
            yield series["metric"], list(_points(series["values"]))

    def _instant(self, query: str, at: float) -> Iterator[tuple[Mapping[str, str], float]]:
        for series in self._ask("/api/v1/query", {"query": query, "time": at}):
            for _, value in _points([series["value"]]):
                yield series["metric"], value

    def _ask(
        self, path: str, parameters: Mapping[str, Any], seconds: float = TIMEOUT_SECONDS
    ) -> list[Any]:
        try:
            answer = self._get(path, parameters, seconds)
        except (httpx.TimeoutException, TimeoutError) as error:
            raise UpstreamError(
                f"the Prometheus at {self._url} gave no whole answer within {seconds:g} s.",
                after_first_byte=False,
                hint="Check the address, and that it is not overloaded; a shorter --range and a "
                "narrower --select ask less of it.",
            ) from error
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
        else:
            try:
                body: Any = answer.json()
                if answer.status_code == 200 and body["status"] == "success":
                    return [s for s in body["data"]["result"] if _is_series(s)]
                reason = str(body.get("error", f"HTTP {answer.status_code}"))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                reason = f"HTTP {answer.status_code}, and not what its API answers"
        raise UpstreamError(
            f"the Prometheus at {self._url} does not answer as one: {reason}",
            after_first_byte=False,
            hint=f"Check the address; a bearer token is taken from {TOKEN_VARIABLE}.",
        )

    def _get(self, path: str, parameters: Mapping[str, Any], seconds: float) -> httpx.Response:
        """Return the whole answer. Raises httpx.HTTPError; TimeoutError if it comes too slowly."""
        until = time.monotonic() + seconds
        with self._http.stream("GET", path, params=dict(parameters), timeout=seconds) as answer:
            parts = []
            # The client's own limit applies to the time between two chunks.
            for part in answer.iter_bytes():
                parts.append(part)
                if time.monotonic() > until:
                    raise TimeoutError
        # The content is decompressed, so headers about compression and length are left out.
        return httpx.Response(answer.status_code, content=b"".join(parts))

    # --- GPUs ---------------------------------------------------------------------------------

    def _gpus(self, range_seconds: float, now: float, pods: Mapping[str, str]) -> Deployment:
        """Return GPUs by a DCGM exporter, without GPUs with MIG slices, whose share is unknown."""
        busy: dict[str, float] = {}
        labels_by_uuid: dict[str, Mapping[str, str]] = {}
        on: dict[str, list[str]] = {}
        for labels, value in self._instant(
            f"avg_over_time(DCGM_FI_DEV_GPU_UTIL[{range_seconds:.0f}s])", now
        ):
            uuid = labels.get("UUID", "")
            if uuid and not labels.get("GPU_I_ID"):
                busy[uuid] = min(1.0, max(0.0, value / 100))
                labels_by_uuid[uuid] = labels
                self._add_pod(on, uuid, labels, pods)
        sizes: dict[str, float] = {}
        for name in ("DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_RESERVED"):
            for labels, value in self._instant(name, now):
                uuid = labels.get("UUID", "")
                if uuid in busy and not labels.get("GPU_I_ID"):
                    sizes[uuid] = sizes.get(uuid, 0.0) + value * MIB
        devices = _devices_of(labels_by_uuid, sizes)
        notes = (
            (f"{CORES_PER_DEVICE} host cores are assumed for each GPU of the DCGM exporter.",)
            if devices
            else ()
        )
        return Deployment(emptied(devices), {p: tuple(g) for p, g in on.items()}, busy, notes)

    @staticmethod
    def _add_pod(
        on: dict[str, list[str]], uuid: str, labels: Mapping[str, str], pods: Mapping[str, str]
    ) -> None:
        # `exported_pod` is the workload's pod if the exporter's own label took `pod`.
        pod = labels.get("exported_pod") or labels.get("pod") or ""
        for place, name in pods.items():
            if name and name == pod and uuid not in on.setdefault(place, []):
                on[place].append(uuid)


def _is_series(series: Any) -> bool:
    return (
        isinstance(series, dict)
        and isinstance(series.get("metric"), dict)
        and all(_is_point(point) for point in [series.get("value", [0, "0"])])
        and all(_is_point(point) for point in series.get("values", []))
        and ("value" in series or "values" in series)
    )


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2


def _place(labels: Mapping[str, str]) -> str:
    return next((labels[name] for name in PLACES if labels.get(name)), "engine")


def _points(values: Any) -> Iterator[tuple[float, float]]:
    for at, text in values:
        value = number(str(text))
        if value is not None and math.isfinite(value):
            yield float(at), value


def _devices_of(
    labels_by_uuid: Mapping[str, Mapping[str, str]], sizes: Mapping[str, float]
) -> tuple[Device, ...]:
    from partitiond.devices.nvml import hardware_key  # NVML's binding is not needed before

    found: list[Device] = []
    for uuid, labels in sorted(labels_by_uuid.items(), key=lambda pair: (_host(pair[1]), pair[0])):
        memory = round(sizes.get(uuid, 0))
        key = hardware_key(labels.get("modelName", "GPU"), memory)
        spec = HARDWARE.get(key)
        size = Bytes(memory or (spec.memory_bytes if spec else 0))
        host = _host(labels)
        modes = spec.modes if spec else (SharingMode.WHOLE, SharingMode.MEMORY)
        found.append(
            Device(
                id=uuid,
                kind=DeviceKind.GPU,
                hardware=key,
                name=labels.get("modelName", key),
                host=host,
                memory_bytes=size,
                free_bytes=size,
                cores=cores_at(sum(1 for d in found if d.host == host)),
                sm_count=spec.sm_count if spec else 0,
                modes=modes,
            )
        )
    return tuple(found)


def _host(labels: Mapping[str, str]) -> str:
    return labels.get("Hostname") or labels.get("node") or labels.get("instance", "host")
