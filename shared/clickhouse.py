"""The only place that knows the ClickHouse client library: an async client and the four error classes.

The class of an error decides what its caller does: transient (retry), operator (pause and alarm, never give up data),
data (find the row), unknown (a bounded retry, then look for a row).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import aiohttp
import clickhouse_connect
from clickhouse_connect.driver import exceptions as driver_errors
from clickhouse_connect.driver.asyncclient import AsyncClient

from shared.clickhouse_errors import DATA, OPERATOR, TRANSIENT
from shared.errors import ClickledgerError, DataError, OperatorError, OutcomeUnknown, TransientError
from shared.settings import ClickHouseSettings


class UnknownClickHouseError(TransientError):
    """An error code in no class: retry a bounded number of times, then look for a row that causes it."""


def error_for(code: int | None, message: str) -> ClickledgerError:
    """Our error for a ClickHouse error code (None: no answer, the outcome is unknown)."""
    if code is None:
        return OutcomeUnknown(message)
    if code in TRANSIENT:
        return TransientError(message)
    if code in OPERATOR:
        return OperatorError(message)
    if code in DATA:
        return DataError(message)
    return UnknownClickHouseError(message)


async def _one_by_one(pieces: Iterable[bytes]) -> AsyncGenerator[bytes]:
    for piece in pieces:
        yield piece


class ClickHouse:
    """An async client of one database, as an async context manager; its calls may run at the same time.

    Every call raises TransientError (OutcomeUnknown where a request got no answer), OperatorError, DataError or
    UnknownClickHouseError.
    """

    def __init__(self, settings: ClickHouseSettings) -> None:
        url = urlsplit(settings.clickhouse_url.get_secret_value())
        self.database = url.path.strip("/") or "default"
        self.cluster = settings.clickhouse_cluster
        self._timeout_s = settings.clickhouse_query_timeout_ms / 1000
        self._arguments: dict[str, Any] = {
            "interface": url.scheme,
            "host": url.hostname,
            "port": url.port,
            "username": unquote(url.username or "default"),
            "password": unquote(url.password or ""),
            "connect_timeout": settings.clickhouse_connect_timeout_ms / 1000,
            "send_receive_timeout": self._timeout_s,
            "autogenerate_session_id": False,  # sessions allow one query at a time
            "query_retries": 0,
            "client_name": "clickledger",
        }
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def query(
        self, sql: str, params: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """The rows of a SELECT; `params` fill `{name:Type}` on the server.

        The server ends it when nobody waits any more: at the query time-out, and when the connection is closed.
        """
        client = await self._connected()
        ending = {"readonly": 2, "max_execution_time": max(1, round(self._timeout_s))}
        result = await self._guarded(client.query(sql, dict(params or {}), ending | dict(settings or {})), sql)
        return list(result.result_rows)

    async def command(
        self, sql: str, params: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a statement that returns nothing or one value."""
        client = await self._connected()
        return await self._guarded(client.command(sql, dict(params or {}), settings=dict(settings or {})), sql)

    async def create_database(self) -> None:
        """Make this client's database when it is missing."""
        client = await self._connected()
        name = self.database.replace("`", "``")
        where = f" ON CLUSTER '{self.cluster}'" if self.cluster else ""
        making = client.command(f"CREATE DATABASE IF NOT EXISTS `{name}`{where}", use_database=False)
        await self._guarded(making, f"making database {self.database}")

    async def raw_query(
        self, sql: str, fmt: str, params: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> bytes:
        """The answer of a SELECT as ClickHouse formats it."""
        client = await self._connected()
        answer: bytes = await self._guarded(
            client.raw_query(sql, dict(params or {}), dict(settings or {}), fmt=fmt), sql
        )
        return answer

    async def insert_bytes(
        self, table: str, payload: bytes | Iterable[bytes], settings: Mapping[str, Any], *, fmt: str = "JSONEachRow"
    ) -> None:
        """Insert rows that are already formatted; pieces are taken one by one, as they can be sent.

        OutcomeUnknown: the rows may or may not be there. The library itself sends one `bytes` again after a reset
        connection, so `settings` must carry an `insert_deduplication_token` wherever a row must not stand twice.
        """
        client = await self._connected()
        block = payload if isinstance(payload, bytes) else _one_by_one(payload)
        inserting = client.raw_insert(table, insert_block=block, settings=dict(settings), fmt=fmt)
        await self._guarded(inserting, f"insert into {table}")

    async def stream(
        self,
        sql: str,
        fmt: str,
        params: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        encoding: str = "",
    ) -> AsyncGenerator[bytes]:
        """The answer of a SELECT in pieces, as ClickHouse formats it and, with `encoding`, compresses it.

        Nothing is read ahead of the caller but some 100 kB. Closing the iterator closes the connection, at which the
        server ends the query (on a server, with `readonly` among the settings). A silence longer than the query
        time-out, and an answer that breaks off, raise; what came before is then not whole.
        """
        client = await self._connected()
        settings = {**(settings or {}), **({"enable_http_compression": 1} if encoding else {})}
        headers = {"Accept-Encoding": encoding} if encoding else None
        opening = client.raw_stream(sql, dict(params or {}), settings, fmt=fmt, transport_settings=headers)
        context = await self._guarded(opening, sql)
        async with context as pieces:
            try:
                async for piece in pieces:
                    yield piece
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                what = " ".join(sql.split())[:200]
                raise TransientError(f"ClickHouse: {what}: broke off: {type(exc).__name__} {exc}") from exc

    async def _connected(self) -> AsyncClient:
        if self._client is not None:
            return self._client
        async with self._connecting:
            if self._client is None:
                creating = clickhouse_connect.get_async_client(**self._arguments, database="")
                self._client = await self._guarded(creating, "connecting to ClickHouse")
                self._client.database = self.database
        return self._client

    async def _guarded(self, call: Any, what: str) -> Any:
        """Await `call` for at most the query time-out and map its errors; their text is one line."""
        what = " ".join(what.split())
        try:
            return await asyncio.wait_for(call, self._timeout_s)
        except driver_errors.ClickHouseError as exc:
            code = getattr(exc, "code", None)
            raise error_for(code, f"ClickHouse: {what[:200]}: {exc}") from exc
        except (TimeoutError, OSError) as exc:
            raise OutcomeUnknown(f"ClickHouse: {what[:200]}: no answer: {type(exc).__name__} {exc}") from exc
