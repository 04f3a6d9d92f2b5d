"""Asking for exports as a client does, and rows by the hundred thousand for a tenant of their own."""

from __future__ import annotations

import csv
import http.client
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.support.full_stack import FullStack
from tests.support.stack import execute

MADE_STREAM = "made"
_MAKE = """
INSERT INTO clicks (v, stream, raw_partition, raw_offset, transaction_id, status, received_at, clicked_at, enriched_at,
    expires_at, tenant, source, short_url, link, promotion_id, recipient, user_agent, is_bot, block_at, inserted_at)
SELECT 1, '{stream}', {partition}, {first} + number, generateUUIDv4(), if(number % 50 = 0, 'duplicate', 'accepted'),
    now64(3), now64(3), now64(3), now64(3) + INTERVAL 90 DAY, '{tenant}', 'api', 'http://made.example/x', 'made.example/x',
    concat('p', toString(number % 20)), concat('+49', toString(rand64(2))), concat('Agent/', hex(sipHash128(number, rand()))),
    number % 10 = 0, now64(3), now64(3) - INTERVAL 1 HOUR
FROM numbers({count})
"""


@dataclass(frozen=True, slots=True)
class Export:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json_rows(self) -> list[dict[str, Any]]:
        """The rows of NDJSON."""
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def csv_rows(self) -> list[dict[str, str]]:
        """The rows of CSV."""
        return list(csv.DictReader(io.StringIO(self.body.decode(), newline="")))

    @property
    def cursor(self) -> str:
        """Where the next pull begins."""
        return self.headers["x-next-cursor"]

    @property
    def description(self) -> str:
        """Of a refusal."""
        assert self.status != 200, self.status
        return str(json.loads(self.body)["description"])


@dataclass(frozen=True, slots=True)
class Client:
    """A reader of one tenant's exports."""

    stack: FullStack
    key: str

    @contextmanager
    def asking(self, headers: dict[str, str] | None = None, **parameters: str) -> Iterator[http.client.HTTPResponse]:
        """An answer that is not read yet; the connection is closed at the end."""
        connection = http.client.HTTPConnection(urlsplit(self.stack.ready["reports"]).netloc, timeout=60)
        path = f"/v1/edr?{urlencode({name.rstrip('_'): value for name, value in parameters.items()})}"
        try:
            connection.request("GET", path, headers={"authorization": f"Bearer {self.key}", **(headers or {})})
            yield connection.getresponse()
        finally:
            connection.close()

    def get(self, headers: dict[str, str] | None = None, **parameters: str) -> Export:
        """A whole answer; raises IncompleteRead where it breaks off. `from_` stands for `from`."""
        with self.asking(headers, **parameters) as response:
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Export(response.status, fields, response.read())

    def everything(self, **parameters: str) -> Export:
        """All of the tenant's rows."""
        return self.get(from_="2020-01-01T00:00:00Z", **parameters)


def owner(stack: FullStack, sql: str) -> str:
    """Run a statement as the owner of the tables."""
    return execute(stack.ready["clickhouse_owner"], sql)


def make_rows(
    stack: FullStack, tenant: str, count: int, *, stream: str = MADE_STREAM, partition: int = 0, first: int = 0
) -> None:
    """Store rows behind the pipeline's back, in a stream of their own that ended an hour ago."""
    for at in range(0, count, 100_000):
        size = min(100_000, count - at)
        values = {"stream": stream, "partition": partition, "first": first + at, "count": size, "tenant": tenant}
        owner(stack, _MAKE.format(**values))
