"""Alert rules and dashboards name only existing metrics, and do what they say."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from partitiond.metrics import exposition as metrics
from partitiond.proxy.telemetry import families
from tests.test_docs import command_of

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "observability"
RULES = FOLDER / "prometheus" / "rules" / "partitiond.yml"
FAMILIES = (*metrics.FAMILIES, *families.FAMILIES)
SAMPLES = {name: family for family in FAMILIES for name in family.samples}
LABELS_OF_ALL = {"le", "job", "instance", "host", "alertname", "alertstate"}
NAME = re.compile(r"(?<![\w$:])((?:partitiond|vllm:|gen_ai)_?[a-z0-9_:]+)(?!=)")
SELECTOR = re.compile(r"([a-z0-9_:]+)\{([^}]*)\}")
promtool = shutil.which("promtool")


def expressions() -> list[tuple[str, str]]:
    rules = yaml.safe_load(RULES.read_text())
    found = [(r["alert"], r["expr"]) for group in rules["groups"] for r in group["rules"]]
    for page in sorted((FOLDER / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(page.read_text())
        for panel in board["panels"]:
            found += [(f"{page.stem}: {panel['title']}", t["expr"]) for t in panel["targets"]]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                found.append((f"{page.stem}: ${variable['name']}", variable["query"]))
    return found


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dashboards", FOLDER / "make_dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_metric_that_is_named_exists() -> None:
    wrong = []
    for where, expr in expressions():
        names = set(NAME.findall(re.sub(r'"[^"]*"', '""', expr))) - {"partitiond"}
        wrong += [(where, name) for name in names - SAMPLES.keys()]
        if not names and where != "PartitiondDown":
            wrong.append((where, "no metric"))
        for name, labels in SELECTOR.findall(expr):
            asked = set(re.findall(r"(\w+)\s*(?:=~|!=|=)", re.sub(r'"[^"]*"', "", labels)))
            if name in SAMPLES and (unknown := asked - {*SAMPLES[name].labels, *LABELS_OF_ALL}):
                wrong.append((where, f"{name}{unknown}"))
    assert not wrong


def test_no_name_stands_twice() -> None:
    assert len(SAMPLES) == sum(len(family.samples) for family in FAMILIES)


def test_every_alert_says_what_to_do_and_how_urgent_it_is() -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["description"].endswith(".")


def test_the_commands_that_alerts_name_exist() -> None:
    words = [shlex.split(line) for line in re.findall(r"`partitiond ([^`]+)`", RULES.read_text())]
    assert words
    for line in words:
        command, options = command_of([w for w in line if not w.startswith("{{")])
        known = {flag for parameter in command.params for flag in parameter.opts}
        assert set(options) <= known, line


def test_every_alert_is_tried() -> None:
    tried = (RULES.parent / "partitiond.test.yml").read_text()
    for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]:
        assert rule["alert"] in tried, rule["alert"]


def test_the_dashboards_are_what_the_generator_writes() -> None:
    for name, text in generator().pages().items():
        assert (FOLDER / "grafana" / "dashboards" / name).read_text() == text, (
            "run python deploy/observability/make_dashboards.py"
        )


def test_panels_fill_the_page_without_overlapping() -> None:
    for text in generator().pages().values():
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(text)["panels"]:
            grid: dict[str, int] = panel["gridPos"]
            assert grid["x"] + grid["w"] <= 24
            cells = {
                (x, y)
                for x in range(grid["x"], grid["x"] + grid["w"])
                for y in range(grid["y"], grid["y"] + grid["h"])
            }
            assert not cells & taken
            taken |= cells


@pytest.mark.skipif(promtool is None, reason="no promtool (Debian: apt-get install prometheus)")
@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "rules/partitiond.yml"),
        ("test", "rules", "rules/partitiond.test.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_promtool_agrees(words: tuple[str, ...]) -> None:
    assert promtool is not None
    done = subprocess.run(
        [promtool, *words], cwd=FOLDER / "prometheus", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(promtool is None, reason="no promtool (Debian: apt-get install prometheus)")
def test_the_queries_of_the_dashboards_can_be_read(tmp_path: Path) -> None:
    queries = [
        expr.replace("$model", ".*").replace("$__rate_interval", "5m")
        for where, expr in expressions()
        if ": " in where and "label_values" not in expr
    ]
    rules = [{"record": f"query:{n}", "expr": expr} for n, expr in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    assert promtool is not None
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=none", str(file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_scrapes_what_the_daemon_serves() -> None:
    config: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "partitiond"
    assert job["metrics_path"] == "/metrics"
    assert (FOLDER / "prometheus" / config["rule_files"][0]).is_file()
