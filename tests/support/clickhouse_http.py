"""ClickHouse's HTTP interface by hand: what curl sends."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlencode, urlsplit


@dataclass(frozen=True)
class HttpAnswer:
    """Status, headers in lower case, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def code(self) -> int:
        """ClickHouse's error code, 0 without one."""
        return int(self.headers.get("x-clickhouse-exception-code", "0"))


@dataclass(frozen=True)
class ClickHouseHttp:
    """One user's requests to the server at `url` (`http://user:password@host:port`)."""

    url: str

    def ask(
        self,
        body: bytes | str = b"",
        *,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        path: str = "/",
        **fields: str | int,
    ) -> HttpAnswer:
        """Send one request with `fields` in the URL on its own connection."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 0), timeout=120)
        known = {"X-ClickHouse-User": unquote(parts.username or ""), "X-ClickHouse-Key": unquote(parts.password or "")}
        try:
            connection.request(
                method,
                f"{path}?{urlencode(fields)}" if fields else path,
                body=body.encode() if isinstance(body, str) else body,
                headers={**known, **(headers or {})},
            )
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return HttpAnswer(answer.status, named, answer.read())
        finally:
            connection.close()

    def rows(self, sql: str, **fields: str | int) -> list[list[str]]:
        """The rows of a statement as text; fails the test when it fails."""
        answer = self.ask(sql, **fields)
        assert answer.status == 200, answer.text
        return [line.split("\t") for line in answer.text.splitlines()]
