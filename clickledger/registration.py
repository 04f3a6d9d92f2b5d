"""Loading links and promotions through the API: chunks of lines, per-line results, bounded retries.

The API checks and writes each line (so every rule holds here too) and answers when its own machine has read it back.
Chunks go one after the other: of two lines with one short URL the later one stands.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import orjson

from clickledger.lines import BadLine, Record
from clickledger.load.clicks import Target
from shared.errors import OperatorError, TransientError

CHUNK_LINES: Final = 1_000
"""Lines of one request; small enough for a moving progress bar, large enough that round trips do not count."""
CHUNK_BYTES: Final = 1 << 20
_TIMEOUT_S: Final = 30.0
_TRIES_MAX: Final = 8
_BACKOFF_S: Final = 0.25
_BACKOFF_S_MAX: Final = 5.0
_SEEN_S: Final = 30.0
_RETRIED: Final = (429, 500, 503)

Report = Callable[[BadLine], None]


@dataclass(slots=True)
class Loaded:
    """How a load went, in lines."""

    accepted: int = 0
    refused: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    """fields of the last accepted line"""


class Api:
    """One keep-alive connection to the API with a key."""

    def __init__(self, target: Target) -> None:
        self._target = target
        kind = http.client.HTTPSConnection if target.tls else http.client.HTTPConnection
        self._connection = kind(target.host, target.port, timeout=_TIMEOUT_S)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ask(self, method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> tuple[int, Any]:
        """Send one request; its status and JSON. Tries again after 429, 500, 503 and lost connections, with back-off.

        Only for requests that may be repeated. Raises TransientError when the API does not answer in the end,
        OperatorError when the key is refused.
        """
        problem = ""
        for tries in range(_TRIES_MAX):
            if tries:
                time.sleep(min(_BACKOFF_S_MAX, _BACKOFF_S * 2 ** (tries - 1)))
            try:
                status, answer = self._once(method, path, body, content_type)
            except (OSError, http.client.HTTPException) as exc:
                self._connection.close()
                problem = f"{type(exc).__name__} {exc}"
                continue
            if status in (401, 403):
                raise OperatorError(f"the API refuses the key: {_text(answer)} (it needs the grant 'admin')")
            if status not in _RETRIED:
                return status, answer
            problem = _text(answer)
        raise TransientError(f"the API at {self._target.host}:{self._target.port} does not answer: {problem}")

    def _once(self, method: str, path: str, body: bytes, content_type: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self._target.secret}", "Content-Type": content_type}
        self._connection.request(method, path, body or None, headers)
        response = self._connection.getresponse()
        content = response.read()
        try:
            return response.status, orjson.loads(content)
        except orjson.JSONDecodeError as exc:
            raise http.client.HTTPException(f"status {response.status} without JSON: is this the API?") from exc


def _text(answer: object) -> str:
    return str(answer.get("description") or answer) if isinstance(answer, dict) else str(answer)


def load(
    target: Target, path: str, records: Iterable[Record | BadLine], report: Report, advance: Callable[[int], None]
) -> Loaded:
    """Register every record by POST to `path`; refused lines go to `report`. Raises as `Api.ask`."""
    loaded = Loaded()
    with closing(Api(target)) as api:
        for chunk in _chunks(_good(records, loaded, report)):
            _send(api, path, chunk, loaded, report)
            advance(len(chunk))
    return loaded


def _good(records: Iterable[Record | BadLine], loaded: Loaded, report: Report) -> Iterator[Record]:
    for item in records:
        if isinstance(item, Record):
            yield item
        else:
            loaded.refused += 1
            report(item)


def _chunks(records: Iterable[Record]) -> Iterator[list[tuple[Record, bytes]]]:
    chunk: list[tuple[Record, bytes]] = []
    size = 0
    for record in records:
        line = orjson.dumps(record.fields)
        if chunk and (len(chunk) >= CHUNK_LINES or size + len(line) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append((record, line))
        size += len(line) + 1
    if chunk:
        yield chunk


def _send(api: Api, path: str, chunk: list[tuple[Record, bytes]], loaded: Loaded, report: Report) -> None:
    body = b"\n".join(line for _, line in chunk)
    status, results = api.ask("POST", path, body, "application/x-ndjson")
    if status != http.client.OK or not isinstance(results, list) or len(results) != len(chunk):
        first, last = chunk[0][0].number, chunk[-1][0].number
        raise OperatorError(f"lines {first}-{last} were refused together: {_text(results)}")
    for (record, _), result in zip(chunk, results, strict=True):
        if "code" in result:
            loaded.refused += 1
            report(BadLine(record.number, str(result.get("description", "")).removeprefix("Bad Request: ")))
        else:
            loaded.accepted += 1
            loaded.last = record.fields


def wait_until_seen(target: Target, path: str, fields: dict[str, Any]) -> None:
    """Wait until the API that runs at `target` finds the last registered line. Raises TransientError after 30 s."""
    name = "short_url" if path.endswith("/links") else "promotion_id"
    deadline = time.monotonic() + _SEEN_S
    with closing(Api(target)) as api:
        while True:
            status, _ = api.ask("GET", f"{path}?{name}={quote(str(fields[name]), safe='')}")
            if status == http.client.OK:
                return
            if time.monotonic() > deadline:
                raise TransientError(f"the API does not have {name} {fields[name]} after {_SEEN_S:.0f} s")
            time.sleep(0.05)
