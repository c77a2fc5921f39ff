"""Defines the start arguments of a proxy process, with its limits and time limits."""

import dataclasses
from pathlib import Path
from typing import Literal

from partitiond.core.dispatch.routing import UNIX
from partitiond.core.errors import SettingsError
from partitiond.core.units import KIB, MIB


@dataclasses.dataclass(frozen=True, slots=True)
class ProxyOptions:
    """Limits of one proxy process; names as in the settings' `[proxy]` table.

    Attributes:
        max_body_bytes: larger request bodies get 413.
        max_bodies_bytes: total of the request bodies of more than 16 KiB that one process holds,
            from their first byte to the end of their answer; further ones get 503, and those of a
            key beyond half of what the others leave. As much again, but at least
            `max_response_bytes`, for whole answers, until their clients have them.
        max_header_bytes: larger request heads get 431.
        max_connections: open connections of clients; further ones get 503 and are closed, or take
            the place of one of the network that has the most.
        max_sequences: prompts x n of one request. OpenAI takes 2,048 inputs.
        max_response_bytes: larger answers of an engine (not streamed) are 400. 2,048 inputs have
            184 MB of vectors of 4,096 numbers.
        first_token_timeout_seconds: of a stream, from its start or an event without content on.
        between_tokens_timeout_seconds: between two pieces of a stream.
        total_timeout_seconds: from the last byte of the request to the end of the answer.
        client_timeout_seconds: a client that makes no progress in sending its request or reading
            its answer for this long is disconnected; else it would hold a slot of the engine.
        max_attempts: including the first.
        retry_share: retries allowed per request of a model; 0 for none.
        workers: processes on the same port; together they never exceed a replica's limit.
        tls_certificate: PEM file with the certificate chain, or empty for plain HTTP; reloaded
            when it changes.
        tls_key: PEM file with the certificate's key.
        cors_origins: origins that browsers may call from; empty for none.
        allowed_hosts: names that requests may be addressed to, beside `localhost` and IP addresses,
            on loopback without keys or TLS; "*" for any.
        debug_headers: "asked" adds replica and timing headers if the request has
            `x-partitiond-debug: 1`, "always" to every answer, "never" to none.
        traces_endpoint: where engines send spans; empty for no traces.
        traces_ratio: share of requests that engines record if the client does not decide.
        peers_address: where the proxies of other hosts reach this one: `0.0.0.0:8001` (with
            `peers_tls`), or `unix:` and a path; empty for nowhere.
        peers_tls: folder of the certificates with which hosts know each other, or empty.
        log_max_bytes: size at which the log file is rotated.
        log_backups: rotated log files kept.
    """

    max_body_bytes: int = 8 * MIB
    max_bodies_bytes: int = 512 * MIB
    max_header_bytes: int = 32 * KIB
    max_connections: int = 10_000
    max_sequences: int = 2048
    max_response_bytes: int = 256 * MIB
    first_token_timeout_seconds: float = 120.0
    between_tokens_timeout_seconds: float = 60.0
    total_timeout_seconds: float = 1800.0
    client_timeout_seconds: float = 60.0
    max_attempts: int = 2
    retry_share: float = 0.2
    workers: int = 1
    tls_certificate: str = ""
    tls_key: str = ""
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    debug_headers: Literal["asked", "always", "never"] = "asked"
    traces_endpoint: str = ""
    traces_ratio: float = 0.1
    peers_address: str = ""
    peers_tls: str = ""
    log_max_bytes: int = 16 * MIB
    log_backups: int = 3

    def __post_init__(self) -> None:
        """Refuse an address at which anybody could use every model.

        Raises:
            SettingsError: see above.
        """
        if self.peers_address and not (self.peers_address.startswith(UNIX) or self.peers_tls):
            raise SettingsError(
                f"The endpoint would serve those of other hosts at {self.peers_address} without "
                "TLS, and so anybody who reaches it.",
                hint="Name the folder of this host's certificates in peers_tls: ca.pem, cert.pem "
                "and key.pem, as `partitiond host certificate` makes them.",
                facts={"peers_address": self.peers_address},
            )


@dataclasses.dataclass(frozen=True, slots=True)
class ProxyArguments:
    """The start arguments of one proxy process.

    Attributes:
        port: 0 for any free one (see GET /state).
        control_socket: path of the Unix socket; its folder is made 0700.
        log_file: rotated log, or None for standard error.
    """

    host: str
    port: int
    state_dir: Path
    control_socket: Path
    log_file: Path | None = None
    options: ProxyOptions = dataclasses.field(default_factory=ProxyOptions)
