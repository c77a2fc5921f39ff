"""Defines types of settings' values with their checks and conversions, and reads addresses."""

import ipaddress
import re
import urllib.parse
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from partitiond.core.units import Bytes, parse_bytes


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _socket_path(value: object) -> object:
    return value.removeprefix("unix://") if isinstance(value, str) else value


def _size(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


def _http_url(text: str) -> str:
    """Return an address that can be asked over HTTP, as it was written."""
    try:
        parts = urllib.parse.urlsplit(text)
        whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port, brackets that do not close
        whole = False
    if not whole or any(character.isspace() for character in text):
        raise ValueError("write an address such as http://127.0.0.1:4318/v1/traces")
    return text


def _index_url(text: str) -> str:
    """Return an address of a package index: over HTTP, or a folder that is laid out as an index."""
    if re.fullmatch(r"file:///\S+", text):
        return text
    try:
        return _http_url(text)
    except ValueError as error:
        raise ValueError("write an address such as https://mirror.example/simple") from error


def _origin(text: str) -> str:
    """Return an origin as browsers send it, or "*"; the scheme's default port is left out."""
    if text == "*":
        return text
    try:
        parts = urllib.parse.urlsplit(text.lower())
        host, port = parts.hostname or "", parts.port
    except ValueError:  # an invalid port, brackets that do not close
        parts, host, port = urllib.parse.SplitResult("", "", "", "", ""), "", None
    shown = f"[{host}]" if ":" in host else host
    whole = f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")
    if parts.scheme not in {"http", "https"} or not host or whole != text.lower():
        raise ValueError(
            "write an origin such as https://app.example or http://127.0.0.1:3000: scheme, host "
            "and port, nothing behind"
        )
    if not host.isascii() or any(character in host for character in "*% \t"):
        raise ValueError("write the host of an origin in full, in ASCII (xn--...)")
    default = {"http": 80, "https": 443}[parts.scheme]
    return whole.removesuffix(f":{port}") if port == default else whole


def _host_name(text: str) -> str:
    """Return a DNS name as clients write it into Host, in lower case, or "*"."""
    name = text.lower().removesuffix(".")
    if name != "*" and not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", name):
        raise ValueError("write a name such as ai.example: no scheme, no port, in ASCII (xn--...)")
    return name


HttpUrl = Annotated[str, AfterValidator(_http_url)]
IndexUrl = Annotated[str, AfterValidator(_index_url)]
SocketPath = Annotated[Path, BeforeValidator(_socket_path), AfterValidator(_absolute)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Size = Annotated[Bytes, BeforeValidator(_size), Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Origin = Annotated[str, AfterValidator(_origin)]
HostName = Annotated[str, AfterValidator(_host_name)]


def is_loopback(host: str) -> bool:
    """Return whether only this host can reach a listener on `host`; unknown names count as open."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def reachable_url(host: str, port: int, *, tls: bool = False) -> str:
    """Return the URL of a listener for this host. The any-address can be bound, but not called."""
    scheme = "https" if tls else "http"
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared
    shown = f"[{reachable}]" if ":" in reachable else reachable
    return f"{scheme}://{shown}:{port}"
