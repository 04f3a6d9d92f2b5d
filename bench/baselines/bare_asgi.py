"""The limit of a Python ASGI handler: reads the body, answers a constant. No checks, no Kafka."""

from __future__ import annotations

from typing import Any

BODY = b'{"transaction-id":"01890a5d-ac96-774b-bcce-b302099a8057"}'
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())],
}


async def app(_scope: Any, receive: Any, send: Any) -> None:
    """Answer every request."""
    while (await receive()).get("more_body"):
        pass
    await send(START)
    await send({"type": "http.response.body", "body": BODY})
