"""Engines listen, fetch and know only what they may."""

import dataclasses
from pathlib import Path

import pytest

from partitiond.core.errors import SpecError
from partitiond.engines.vllm.launch import check_extra_args, command, environment
from tests.engines.vllm.test_launch import CPU, NEW, OLD, PYTHON


def test_an_engine_fetches_nothing_that_a_request_names() -> None:
    """Else any key holder could have the host's own services asked."""
    for capabilities in (OLD, NEW):
        argv = command(CPU, PYTHON, capabilities)
        allowed = argv[argv.index("--allowed-media-domains") + 1]
        assert allowed.endswith(".invalid")
    assert environment(CPU, PYTHON, Path("/cache"), NEW)["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"


def test_the_operator_can_allow_domains() -> None:
    launch = dataclasses.replace(CPU, extra_args=("--allowed-media-domains", "media.example"))
    argv = command(launch, PYTHON, NEW)
    assert argv[-2:] == ["--allowed-media-domains", "media.example"]


@pytest.mark.parametrize(
    "flag",
    [
        "--allowed-local-media-path", "--allowed-origins", "--api-key", "--enable-lora",
        "--enable-request-id-headers", "--enable-server-load-tracking", "--host",
        "--hf-token", "--io-processor-plugin", "--kv-transfer-config",
        "--load-format", "--logits-processors", "--lora-modules", "--middleware",
        "--model-loader-extra-config", "--port", "--root-path", "--served-model-name",
        "--ssl-keyfile", "--tool-parser-plugin", "--trust-remote-code",
        "--trust-request-chat-template", "--uds", "--worker-cls", "--worker-extension-cls",
    ],
)  # fmt: skip
def test_flags_that_open_something_or_load_code_are_refused(flag: str) -> None:
    for args in ((flag,), (flag, "x"), (f"{flag}=x",), (flag.upper(), "x"), (flag[:-1], "x")):
        with pytest.raises(SpecError):
            check_extra_args(args)
