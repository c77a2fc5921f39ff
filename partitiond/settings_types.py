"""Types of settings' values: what is refused, and what text becomes."""

import urllib.parse
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from partitiond.core.units import Bytes, parse_bytes


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _size(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


def _http_url(text: str) -> str:
    """An address that can be asked over HTTP, as it was written."""
    try:
        parts = urllib.parse.urlsplit(text)
        whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, brackets that do not close
        whole = False
    if not whole or any(character.isspace() for character in text):
        raise ValueError("write an address such as http://127.0.0.1:9400/metrics")
    return text


HttpUrl = Annotated[str, AfterValidator(_http_url)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Size = Annotated[Bytes, BeforeValidator(_size), Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
