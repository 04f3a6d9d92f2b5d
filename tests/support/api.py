"""A handler state over the in-memory catalog, and requests to give it."""

from __future__ import annotations

import itertools
from typing import Any

from ingest_api.handler import HandlerState, PendingClick, handle
from ingest_api.throttle import Cells, FailureLimiter, Throttle
from shared.http.answer import Answer
from shared.settings import ApiSettings
from tests.support.catalog import NOW_MS, SECRET, MemoryCatalog, example_catalog

PATH = b"/campaignapi/resources/v3/shortlinkclicks"
AUTHORIZED = (b"authorization", f"Bearer {SECRET}".encode())
JSON_TYPE = (b"content-type", b"application/json")
HEADERS = ((b"host", b"localhost:8080"), (b"accept", b"*/*"), AUTHORIZED, JSON_TYPE)
PEER = "198.51.100.7"


def make_state(catalog: MemoryCatalog | None = None, **settings: Any) -> HandlerState:
    """A state as the composition root builds it, for one worker."""
    api = ApiSettings(**settings)
    return HandlerState(
        catalog=catalog or example_catalog(),
        throttle=Throttle(Cells.in_memory(slots=64), window_ms=api.api_throttle_window_ms),
        failures=FailureLimiter(
            Cells.in_memory(slots=64),
            limit=api.api_failed_authentications_max,
            window_ms=api.api_failed_authentications_window_ms,
        ),
        settings=api,
        topic_raw="clicks.raw",
        node="node-1",
        next_partition=itertools.cycle(range(6)).__next__,
        random_bytes=bytes,
    )


def post(state: HandlerState, body: bytes, *headers: tuple[bytes, bytes], **changes: Any) -> Answer | PendingClick:
    """One click; `headers` come after the ordinary ones, `changes` are `handle`'s arguments."""
    request: dict[str, Any] = {
        "method": b"POST",
        "target": PATH,
        "headers": (*HEADERS, *headers),
        "peer": PEER,
        "now_ms": NOW_MS,
    }
    return handle(state, body=body, **(request | changes))
