"""`ServerSettings`: where a server listens, who may ask, and how much a request may ask for."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field

from smart_rag.config import check_count
from smart_rag.errors import InvalidInput
from smart_rag.wording import number

TOKEN_VARIABLE = "SMART_RAG_TOKEN"  # the name of the variable, not a token
# A shorter token could be guessed.
_SHORTEST_TOKEN = 16


def token_of_environment() -> str | None:
    """Return the token in the environment variable ``SMART_RAG_TOKEN``. Return None if there is none."""
    return os.environ.get(TOKEN_VARIABLE, "").strip() or None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of a server. All limits are for one worker process.

    Attributes:
        host: the address to listen on. Any other address than loopback needs a ``token``.
        port: the port to listen on. With 0, the system chooses a free one.
        allowed_hosts: names by which clients reach the server, besides its address and ``localhost``. Behind a proxy,
            this is the name of the proxy.
        token: what clients must send as ``Authorization: Bearer TOKEN``. By default, it is the environment variable
            ``SMART_RAG_TOKEN``. If there is none, no token is needed.
        workers: number of processes. Each loads the model.
        max_body: the largest body of a request, in megabytes.
        max_items: the largest number of queries, texts, documents or ids in one request.
        max_query_length: the largest number of characters of a query.
        max_hits: the largest ``top_k`` and the largest number of ``candidates``.
        max_concurrency: number of requests at a time. Further ones are refused with status 503.
        max_batch: the largest number of queries that are encoded in one call. By default, 8 on a CPU and 64 on a GPU.
        batch_window: while several clients ask, the milliseconds that a query waits for others, so that they are
            encoded together. A query that comes alone does not wait.
        body_seconds: seconds in which the body of a request must arrive.
        write_seconds: seconds that a write waits while another process writes to the index.
        shutdown_seconds: seconds that running requests have to end when the server is stopped.
        mcp: whether assistants are answered at ``/mcp``, by the Model Context Protocol. It needs the extra ``mcp``.

    Raises:
        InvalidInput: a setting cannot be used, or the address needs a token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    allowed_hosts: tuple[str, ...] = ()
    token: str | None = field(default_factory=token_of_environment, repr=False)
    workers: int = 1
    max_body: float = 16.0
    max_items: int = 1000
    max_query_length: int = 10_000
    max_hits: int = 1000
    max_concurrency: int = 64
    max_batch: int | None = None
    batch_window: float = 3.0
    body_seconds: float = 30.0
    write_seconds: float = 5.0
    shutdown_seconds: float = 30.0
    mcp: bool = False

    def __post_init__(self) -> None:
        for name in (*("workers", "max_items", "max_query_length", "max_hits", "max_concurrency", "max_batch"),):
            check_count(name, 1 if getattr(self, name) is None else getattr(self, name))
        for name in ("max_body", "batch_window", "body_seconds", "write_seconds", "shutdown_seconds"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise InvalidInput(f"{name} must be a number from 0 to 1,000,000, got {getattr(self, name)!r}")
        if not 0 <= self.port <= 65_535:
            raise InvalidInput(f"port must be from 0 to 65535, got {self.port}")
        if self.token is not None and len(self.token) < _SHORTEST_TOKEN:
            raise InvalidInput(
                f"the token in {TOKEN_VARIABLE} has {number(len(self.token), 'character')}, which can be guessed; use "
                f"at least {_SHORTEST_TOKEN}, for example those of: openssl rand -hex 32"
            )
        if self.token is None and not is_loopback(self.host):
            raise InvalidInput(
                f"host {self.host!r} can be reached from other machines, so clients must send a token; set the "
                f"environment variable {TOKEN_VARIABLE}, or listen on 127.0.0.1"
            )

    @property
    def body_bytes(self) -> int:
        """The largest body of a request in bytes."""
        return int(self.max_body * 1e6)


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is an address or a name of this machine that no other machine can reach."""
    address = address_of(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that ``host`` is, or None if ``host`` is a name. IPv6 may stand in brackets."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
