"""Writes the Grafana dashboards: `python deploy/observability/make_dashboards.py`.

The dashboards are JSON that is hard to read; their contents are defined here. A test compares the
files with this module, and asserts that every metric in them exists.
"""

import json
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parent / "grafana" / "dashboards"
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
WIDTH: Final = 24
MODEL: Final = 'model=~"$model"'


def panel(
    title: str,
    *queries: tuple[str, str],
    unit: str = "short",
    width: int = 8,
    height: int = 8,
    kind: str = "timeseries",
    text: str = "",
    stack: bool = False,
) -> dict[str, Any]:
    """One panel; each query comes with its legend."""
    custom: dict[str, Any] = {"fillOpacity": 10, "lineWidth": 1, "showPoints": "never"}
    if stack:
        custom["stacking"] = {"mode": "normal"}
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "gridPos": {"w": width, "h": height},
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "min": 0,
                **({"custom": custom} if kind == "timeseries" else {}),
            },
            "overrides": [],
        },
        "options": (
            {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
            if kind == "timeseries"
            else {}
        ),
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for n, (expr, legend) in enumerate(queries)
        ],
    }


def number(title: str, expr: str, unit: str = "short", text: str = "") -> dict[str, Any]:
    """One panel with a single number."""
    return panel(title, (expr, ""), unit=unit, width=4, height=4, kind="stat", text=text)


def quantile(share: float, metric: str, by: str = "model") -> str:
    """A quantile of a histogram over the last minutes."""
    rate = f"rate({metric}_bucket{{{MODEL}}}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by ({by}, le) ({rate}))"


def rate(metric: str, by: str = "model", more: str = "") -> str:
    """Growth of a counter per second."""
    return f"sum by ({by}) (rate({metric}{{{MODEL}{more}}}[$__rate_interval]))"


def by_host(metric: str, by: str = "host", only: str = "") -> str:
    """Growth of a counter of all models per second, by host."""
    return f"sum by ({by}) (rate({metric}{{{only}}}[$__rate_interval]))"


def placed(panels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Place panels in rows, from left to right."""
    x = y = tallest = 0
    for number_of, one in enumerate(panels, 1):
        grid = one["gridPos"]
        if x + grid["w"] > WIDTH:
            x, y, tallest = 0, y + tallest, 0
        grid["x"], grid["y"] = x, y
        x, tallest = x + grid["w"], max(tallest, grid["h"])
        one["id"] = number_of
    return panels


def dashboard(uid: str, title: str, panels: list[dict[str, Any]], by_model: bool) -> dict[str, Any]:
    """A whole dashboard."""
    variables: list[dict[str, Any]] = [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    ]
    if by_model:
        variables.append(
            {
                "name": "model",
                "label": "Model",
                "type": "query",
                "datasource": SOURCE,
                "query": "label_values(partitiond_model_replicas_planned, model)",
                "refresh": 2,
                "multi": True,
                "includeAll": True,
                "current": {"text": "All", "value": "$__all"},
            }
        )
    return {
        "uid": uid,
        "title": title,
        "tags": ["partitiond"],
        "timezone": "browser",
        "schemaVersion": 39,
        "version": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "annotations": {"list": []},
        "panels": placed(panels),
    }


def fleet() -> dict[str, Any]:
    """Dashboard of devices, the plan, and problems."""
    device = "{{device}} {{host}}"  # the latter is there with several hosts
    return dashboard(
        "partitiond-fleet",
        "partitiond: fleet",
        [
            number("Not ready", "count(partitiond_problem) or vector(0)"),
            number("Replicas that serve", "sum(partitiond_model_replicas_serving)"),
            number("Replicas planned", "partitiond_plan_placements"),
            number("Without a place", "partitiond_plan_unplaced"),
            number("Gap to the bound", "partitiond_plan_gap_ratio", "percentunit",
                   "Certified: no plan can be better than this by more. 0 is proven optimal."),
            number("Plan waits for apply", "partitiond_plan_waiting"),
            panel("Memory of devices",
                  ("partitiond_device_memory_used_bytes", f"{device} used"),
                  ("partitiond_device_memory_held_bytes", f"{device} held"),
                  ("partitiond_device_memory_coming_bytes", f"{device} to come"),
                  ("partitiond_device_memory_room_bytes", f"{device} room"), unit="bytes"),
            panel("Compute of devices in use", ("partitiond_device_busy_ratio", device),
                  unit="percentunit"),
            panel("Power", ("partitiond_device_power_watts", device), unit="watt", stack=True),
            panel("Temperature", ("partitiond_device_temperature_celsius", device),
                  unit="celsius"),
            panel("Energy per output token",
                  ("sum(partitiond_device_power_watts) / sum(rate("
                   "partitiond_proxy_output_tokens_total[$__rate_interval]))", "J per token"),
                  unit="joule"),
            panel("Replicas by state", ("sum by (state) (partitiond_replicas)", "{{state}}"),
                  stack=True),
            panel("Output tokens/s of all models",
                  ("sum by (model) (rate(partitiond_proxy_output_tokens_total[$__rate_interval]))",
                   "{{model}}"), stack=True),
            panel("Engines started and stopped",
                  ("sum by (model) (increase(partitiond_engine_starts_total[$__rate_interval]))",
                   "start {{model}}"),
                  ("sum by (reason) (increase(partitiond_engine_stops_total[$__rate_interval]))",
                   "stop: {{reason}}")),
            panel("Events", ("sum by (kind) (increase(partitiond_events_total[$__rate_interval]))",
                             "{{kind}}"), stack=True),
            panel("One pass of the control loop",
                  ("histogram_quantile(0.95, sum by (le) (rate("
                   "partitiond_reconcile_seconds_bucket[$__rate_interval])))", "95 %"), unit="s"),
            panel("Jobs", ("partitiond_jobs", "{{state}}"), stack=True),
            panel("Requests refused by the endpoint",
                  ("sum by (reason) (rate(partitiond_proxy_refusals_total[$__rate_interval]))",
                   "{{reason}}"), unit="reqps", stack=True),
        ],
        by_model=False,
    )  # fmt: skip


def models() -> dict[str, Any]:
    """Dashboard of each model: its demand, its performance, and the predictions."""
    model, replica = "{{model}}", "{{replica}}"
    return dashboard(
        "partitiond-models",
        "partitiond: models",
        [
            panel("Requests/s: asked, planned, expected",
                  (rate("partitiond_model_arrived_total"), f"{model} arrived"),
                  (f"partitiond_model_capacity_requests_per_second{{{MODEL}}}",
                   f"{model} capacity"),
                  (f"partitiond_scaling_forecast_requests_per_second{{{MODEL}}}",
                   f"{model} forecast"), unit="reqps"),
            panel("How requests ended",
                  (rate("partitiond_proxy_requests_total", "model, outcome"),
                   f"{model} {{{{outcome}}}}"), unit="reqps", stack=True),
            panel("Refused, turned away and held",
                  (rate("partitiond_model_refused_total"), f"{model} refused"),
                  (rate("partitiond_model_turned_away_total"), f"{model} turned away"),
                  (rate("partitiond_model_held_total"), f"{model} held"), unit="reqps"),
            panel("Time to the first token",
                  (quantile(0.5, "partitiond_proxy_ttft_seconds"), f"{model} 50 %"),
                  (quantile(0.95, "partitiond_proxy_ttft_seconds"), f"{model} 95 %"), unit="s"),
            panel("Time per output token",
                  (quantile(0.5, "partitiond_proxy_tpot_seconds"), f"{model} 50 %"),
                  (quantile(0.95, "partitiond_proxy_tpot_seconds"), f"{model} 95 %"), unit="s"),
            panel("Time of a request",
                  (quantile(0.5, "partitiond_proxy_e2e_seconds"), f"{model} 50 %"),
                  (quantile(0.95, "partitiond_proxy_e2e_seconds"), f"{model} 95 %"), unit="s"),
            panel("Waiting for a replica",
                  (f"partitiond_proxy_queue{{{MODEL}}}", f"{model} waiting")),
            panel("Time in the queue",
                  (quantile(0.95, "partitiond_proxy_queue_seconds"), f"{model} 95 %"), unit="s"),
            panel("Sequences in flight and the limit",
                  (f"partitiond_proxy_in_flight_sequences{{{MODEL}}}", replica),
                  (f"partitiond_proxy_limit_sequences{{{MODEL}}}", f"{replica} limit")),
            panel("Output tokens/s: measured and planned",
                  (f"partitiond_replica_measured_output_tokens_per_second{{{MODEL}}}", replica),
                  (f"partitiond_replica_planned_output_tokens_per_second{{{MODEL}}}",
                   f"{replica} planned"),
                  text="Planned is at the full batch: a replica with little to do is below it."),
            panel("First token at the engine: measured and planned",
                  (f"partitiond_replica_measured_ttft_mean_seconds{{{MODEL}}}", replica),
                  (f"partitiond_replica_planned_ttft_p95_seconds{{{MODEL}}}",
                   f"{replica} planned 95 %"), unit="s"),
            panel("Per output token: measured and planned",
                  (f"partitiond_replica_measured_tpot_mean_seconds{{{MODEL}}}", replica),
                  (f"partitiond_replica_planned_tpot_p95_seconds{{{MODEL}}}",
                   f"{replica} planned 95 %"), unit="s"),
            panel("Drift", (f"partitiond_replica_drifts{{{MODEL}}}", replica),
                  (f"partitiond_drift_correction_ratio{{{MODEL}}}", f"{model} correction"),
                  text="1 where measured and predicted disagree beyond their confidence."),
            panel("Share of time busy", (f"partitiond_replica_busy_ratio{{{MODEL}}}", replica),
                  unit="percentunit"),
            panel("KV cache in use (estimated)",
                  ('vllm:kv_cache_usage_perc{model_name=~"$model"}', "{{engine}}"),
                  unit="percentunit"),
            panel("Tokens/s",
                  (rate("partitiond_proxy_prompt_tokens_total"), f"{model} prompt"),
                  (rate("partitiond_proxy_output_tokens_total"), f"{model} output")),
            panel("Lengths of requests",
                  (quantile(0.5, "partitiond_proxy_request_prompt_tokens"), f"{model} prompt 50 %"),
                  (quantile(0.5, "partitiond_proxy_request_output_tokens"),
                   f"{model} output 50 %")),
            panel("Failed attempts at engines",
                  ("sum by (replica, kind) (rate("
                   "partitiond_proxy_upstream_failures_total[$__rate_interval]))",
                   f"{replica} {{{{kind}}}}"), unit="reqps"),
        ],
        by_model=True,
    )  # fmt: skip


def hosts() -> dict[str, Any]:
    """Dashboard of several hosts: which are there, who asks which, and what each serves."""
    host = "{{host}}"
    return dashboard(
        "partitiond-hosts",
        "partitiond: hosts",
        [
            panel("Hosts by state", ("sum by (state) (partitiond_host_state)", "{{state}}"),
                  stack=True),
            panel("Silence of hosts", ("partitiond_host_silent_seconds", host), unit="s",
                  text="Time since the head had their last word."),
            panel("Clocks of hosts", ("abs(partitiond_host_clock_offset_seconds)", host),
                  unit="s", text="How far from the clock of the head."),
            panel("Endpoints that do not reach another one",
                  ("1 - partitiond_proxy_peer_reached", f"{host} to {{{{peer}}}}"), stack=True),
            panel("Requests/s by the host that was asked",
                  (by_host("partitiond_proxy_requests_total"), host), unit="reqps", stack=True),
            panel("Requests/s by the host that served",
                  ("sum by (host) (partitiond_replica_measured_requests_per_second)", host),
                  unit="reqps", stack=True),
            panel("Sent on to other hosts",
                  (by_host("partitiond_proxy_hops_total", "host, peer", 'outcome="placed"'),
                   f"{host} to {{{{peer}}}}"), unit="reqps", stack=True),
            panel("Sent on in vain",
                  (by_host("partitiond_proxy_hops_total", "host, peer, outcome",
                           'outcome=~"refused|failed"'), f"{host} to {{{{peer}}}} {{{{outcome}}}}"),
                  unit="reqps", stack=True,
                  text="The other host had no place, or was gone: the request went elsewhere, "
                       "or its client was told."),
            panel("Time to the first token, by the host that was asked",
                  ("histogram_quantile(0.95, sum by (host, le) (rate("
                   "partitiond_proxy_ttft_seconds_bucket[$__rate_interval])))", f"{host} 95 %"),
                  unit="s"),
            panel("Waiting for a replica, by the host where they wait",
                  ("sum by (host) (partitiond_proxy_queue)", host), stack=True),
            panel("Sequences in flight and the limit",
                  ("sum by (host) (partitiond_proxy_in_flight_sequences)", host),
                  ("sum by (host) (partitiond_proxy_limit_sequences)", f"{host} limit")),
            panel("Refused by endpoints",
                  (by_host("partitiond_proxy_refusals_total", "host, reason"),
                   f"{host} {{{{reason}}}}"), unit="reqps", stack=True),
            panel("How requests failed, by the host that was asked",
                  (by_host("partitiond_proxy_requests_total", "host, outcome",
                           'outcome=~"failed|refused"'), f"{host} {{{{outcome}}}}"),
                  unit="reqps", stack=True),
            panel("Compute of GPUs in use", ("avg by (host) (partitiond_device_busy_ratio)", host),
                  unit="percentunit"),
            panel("Memory of GPUs in use",
                  ("sum by (host) (partitiond_device_memory_used_bytes)", host), unit="bytes"),
            panel("Power", ("sum by (host) (partitiond_device_power_watts)", host), unit="watt",
                  stack=True),
        ],
        by_model=False,
    )  # fmt: skip


def pages() -> dict[str, str]:
    """The text of each file."""
    made = {
        "partitiond-fleet.json": fleet(),
        "partitiond-models.json": models(),
        "partitiond-hosts.json": hosts(),
    }
    return {name: json.dumps(board, indent=1) + "\n" for name, board in made.items()}


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)
