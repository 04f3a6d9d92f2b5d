"""One click as a client sends it: the value, and its bytes on the wire.

Rule: pure; times in milliseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

SINGLE_PATH: Final = "/campaignapi/resources/v3/shortlinkclicks"
BATCH_PATH: Final = "/v1/clicks"
BATCH_CLICKS_MAX: Final = 1000
"""Most clicks in one batch request (the contract's limit)."""


@dataclass(frozen=True, slots=True)
class Click:
    """What a client knows about a click; None = the field is not sent."""

    short_url: str
    user_agent: str | None = None
    ip_address: str | None = None
    clicked_at_ms: int | None = None
    idempotency_key: str | None = None
    """1-128 visible ASCII characters; a header on the single endpoint, a field in a batch."""


def body_of(click: Click) -> bytes:
    """Return the request body of the single-click endpoint."""
    return orjson.dumps(_fields(click))


def batch_line_of(click: Click) -> bytes:
    """Return the click as one line of a batch, without the line break."""
    fields = _fields(click)
    if click.idempotency_key is not None:
        fields["idempotency-key"] = click.idempotency_key
    return orjson.dumps(fields)


def _fields(click: Click) -> dict[str, Any]:
    fields: dict[str, Any] = {"short-url": click.short_url}
    if click.user_agent is not None:
        fields["user-agent"] = click.user_agent
    if click.ip_address is not None:
        fields["ip-address"] = click.ip_address
    if click.clicked_at_ms is not None:
        fields["clicked-at"] = click.clicked_at_ms
    return fields


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: an API's base URL and a key."""

    host: str
    port: int
    tls: bool
    secret: str

    @classmethod
    def of(cls, url: str, secret: str) -> Target:
        """Take a base URL apart; raises ValueError, saying why, when it is not http(s)://host[:port]."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http:// or https:// address")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, secret)

    def head(self, path: str, content_type: str) -> bytes:
        """Return the head of a POST request up to, not including, its last headers."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (
            f"POST {path} HTTP/1.1\r\nhost: {host}:{self.port}\r\nauthorization: Bearer {self.secret}\r\n"
            f"content-type: {content_type}\r\n"
        ).encode("ascii")


def single_request(head: bytes, click: Click) -> bytes:
    """Return a complete request to the single-click endpoint; `head` is `Target.head`."""
    body = body_of(click)
    key = click.idempotency_key
    extra = b"" if key is None else b"idempotency-key: %b\r\n" % key.encode("ascii")
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, extra, len(body), body)


def batch_request(head: bytes, clicks: Sequence[Click]) -> bytes:
    """Return a complete request to the batch endpoint, one NDJSON line per click; `head` is `Target.head`."""
    body = b"\n".join(batch_line_of(click) for click in clicks)
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
