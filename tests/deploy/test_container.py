"""The container's files are valid for their readers, and match the code."""

import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from partitiond import native
from partitiond.settings.schema import Settings
from partitiond.settings.sources import describe

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "container"
COMPOSE_KEYS = {
    "build", "image", "restart", "stop_grace_period", "environment", "ports", "volumes", "tmpfs",
    "ipc", "shm_size", "ulimits", "cap_drop", "security_opt", "deploy", "logging",
}  # fmt: skip


def service() -> dict[str, Any]:
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    assert set(compose) == {"name", "services", "volumes"}
    found: dict[str, Any] = compose["services"]["partitiond"]
    for volume in found["volumes"]:
        assert volume.split(":")[0] in compose["volumes"], volume
    return found


def test_the_compose_file_says_only_what_compose_knows() -> None:
    assert set(service()) <= COMPOSE_KEYS


def test_the_image_it_builds_is_there() -> None:
    build = service()["build"]
    context = (FOLDER / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).is_file()


def test_gpus_memory_and_limits_are_what_engines_need() -> None:
    found = service()
    (device,) = found["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert {"gpu", "compute", "utility"} <= set(device["capabilities"])
    assert found["shm_size"].endswith("gb")
    assert found["ulimits"]["memlock"] == -1
    assert found["cap_drop"] == ["ALL"]
    assert int(found["stop_grace_period"].removesuffix("s")) > 120  # engine.drain_deadline_seconds


def test_the_endpoint_is_closed_to_who_has_no_key() -> None:
    found = service()
    assert found["environment"]["PARTITIOND_PROXY__REQUIRE_KEYS"] == "true"
    assert all(port.startswith("127.0.0.1:") for port in found["ports"])


def test_every_setting_that_is_named_exists() -> None:
    known = {native.FOLDER, *(info.environment for info in describe(Settings))}
    text = (FOLDER / "compose.yaml").read_text() + (FOLDER / "Dockerfile").read_text()
    assert set(re.findall(r"PARTITIOND_[A-Z_]+", text)) <= known


def dockerfile() -> list[str]:
    """Instructions, continuation lines joined, comments left out."""
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_image_runs_as_a_user_with_a_health_check() -> None:
    last = {line.split()[0]: line.split(maxsplit=1)[1] for line in dockerfile()}
    assert last["USER"] == "partitiond"
    assert "/healthz" in last["HEALTHCHECK"]
    assert last["ENTRYPOINT"].endswith('"partitiond"]')
    order = [line.split()[0] for line in dockerfile()]
    assert order[-1] == "CMD"
    assert order.index("USER") > max(i for i, word in enumerate(order) if word == "RUN")


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        name
        for line in dockerfile()
        if line.startswith("COPY") and "--from" not in line
        for name in line.split()[1:-1]
    }
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
