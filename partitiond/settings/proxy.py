"""Defines the settings' table `[proxy]`."""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from partitiond.core.units import KIB, MIB, Bytes
from partitiond.serde import Table
from partitiond.settings.types import (
    AbsolutePath,
    HostName,
    Origin,
    Port,
    Seconds,
    Size,
)

DEFAULT_PEERS_PORT: Final = 6387
"""Chosen: the first port between those of Ray's processes (6380 to 6386) and of its relays (6390 to
6429), so that a firewall that admits 6380 to 6429 from the other hosts needs no change."""


class ProxySettings(Table):
    """The OpenAI-compatible endpoint."""

    host: str = Field("127.0.0.1", min_length=1, description="Address the endpoint binds.")
    port: Port = Field(8000, description="TCP port of the endpoint; 0 takes a free one.")
    peers_port: Annotated[Port, Field(ge=1)] = Field(
        DEFAULT_PEERS_PORT,
        description="TCP port, on cluster.address, at which the endpoint of each of several hosts "
        "serves the endpoints of the others, with the certificates of the cluster; one host opens "
        "none. Firewalls that admit Ray's ports from the other hosts admit it, too.",
    )
    max_queue: int = Field(
        256, ge=0, description="Requests per model that may wait for a replica; beyond it 429."
    )
    max_wait_seconds: Seconds = Field(
        30.0, description="Longest wait for a replica, in seconds; beyond it 429."
    )
    require_keys: bool = Field(
        default=False, description="Refuse requests without an API key; needed beyond loopback."
    )
    max_body_bytes: Size = Field(
        Bytes(8 * MIB), description="Largest request body, as a size (8MiB) or a number of bytes."
    )
    max_bodies_bytes: Size = Field(
        Bytes(512 * MIB),
        description="Request bodies of more than 16 KiB in the memory of one worker together, as a "
        "size (512MiB), and as much of whole answers; further ones get 503.",
    )
    max_sequences: int = Field(
        2048,
        ge=1,
        le=65_536,
        description="Inputs of one request (prompts, documents, conversations), times n; beyond it "
        "400. Of models and keys, request limits may be lower.",
    )
    first_token_timeout_seconds: Seconds = Field(
        120.0, description="Longest time an engine may take to its first token, in seconds."
    )
    between_tokens_timeout_seconds: Seconds = Field(
        60.0, description="Longest silence of an engine inside a stream, in seconds."
    )
    total_timeout_seconds: Seconds = Field(
        1800.0, description="Longest time of one request in an engine, in seconds."
    )
    client_timeout_seconds: Seconds = Field(
        60.0,
        description="Longest time a client may take to send more of its request, or to take more "
        "of its answer, in seconds.",
    )
    retry_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Retries allowed per request of a model; 0 retries nothing.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that serve the port; one carries what one core can.",
    )
    max_connections: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Open connections of clients; further ones get 503. Each may take two file "
        "descriptors: `partitiond doctor` compares.",
    )
    max_header_bytes: Size = Field(
        Bytes(32 * KIB),
        ge=4 * KIB,
        le=MIB,
        description="Largest request line and headers together, as a size (32KiB); beyond it 431.",
    )
    tls_certificate: AbsolutePath | None = Field(
        None,
        description="PEM file of the endpoint's certificate and its chain; with tls_key the "
        "endpoint speaks HTTPS alone. Read again when it changes.",
    )
    tls_key: AbsolutePath | None = Field(
        None, description="PEM file of the certificate's key, without a pass phrase."
    )
    cors_origins: tuple[Origin, ...] = Field(
        (),
        description="Origins (https://app.example) whose pages browsers may let call the endpoint; "
        '"*" alone for any; empty for none.',
    )
    allowed_hosts: tuple[HostName, ...] = Field(
        (),
        description="Names (ai.example) that requests may be addressed to, beside localhost and IP "
        'addresses, where the endpoint is on loopback without keys or TLS; "*" alone for any.',
    )
    debug_headers: Literal["asked", "always", "never"] = Field(
        "asked",
        description="Whether answers say their replica and times in headers: where a request asks "
        "by x-partitiond-debug: 1, always, or never.",
    )

    @property
    def tls(self) -> bool:
        """Whether the endpoint speaks HTTPS."""
        return self.tls_certificate is not None

    @model_validator(mode="after")
    def _both_or_none(self) -> "ProxySettings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_certificate"
            raise ValueError(f"proxy.{missing} is not set: TLS needs a certificate and its key")
        return self

    @model_validator(mode="after")
    def _one_fits(self) -> "ProxySettings":
        if self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError(
                "proxy.max_bodies_bytes is less than proxy.max_body_bytes: the largest body that "
                "is allowed would never be taken"
            )
        return self

    @model_validator(mode="after")
    def _any_alone(self) -> "ProxySettings":
        if "*" in self.cors_origins and len(self.cors_origins) > 1:
            raise ValueError('proxy.cors_origins has "*" beside others: "*" is any origin already')
        if "*" in self.cors_origins and not self.require_keys:
            raise ValueError(
                'proxy.cors_origins is "*" and proxy.require_keys is false: every page that '
                "somebody here opens could use the models; list the origins, or set "
                "proxy.require_keys to true"
            )
        if "*" in self.allowed_hosts and len(self.allowed_hosts) > 1:
            raise ValueError('proxy.allowed_hosts has "*" beside others: "*" is any name already')
        return self
