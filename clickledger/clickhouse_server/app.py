"""The ASGI application: small answers of its own, statements to an `Exchange`."""

import asyncio
import hmac
import time
import uuid
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from clickledger.clickhouse_server.access import load_rules
from clickledger.clickhouse_server.admission import Admission
from clickledger.clickhouse_server.bodies import BodyFeed
from clickledger.clickhouse_server.engine import Engine, Role, User
from clickledger.clickhouse_server.errors import (
    AUTHENTICATION_FAILED,
    QUERY_IS_TOO_LARGE,
    QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING,
    REQUIRED_PASSWORD,
    StatementError,
    refusal,
)
from clickledger.clickhouse_server.exchange import (
    HARMLESS_HEADERS,
    Exchange,
    Headers,
    Receive,
    Send,
    common_headers,
    send_error,
)
from clickledger.clickhouse_server.execution import Execution
from clickledger.clickhouse_server.options import Options
from clickledger.clickhouse_server.pipe import ResultPipe
from clickledger.clickhouse_server.request import Credentials, Request, form_fields, parse_request
from clickledger.clickhouse_server.sessions import SessionStore
from clickledger.clickhouse_server.tenant_keys import TenantKeys

FORM_BYTES_MAX: Final = 16 << 20  # a multipart form is held in memory
_LOCAL_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_PLAIN: Final = {"/ping": b"Ok.\n", "/replicas_status": b"Ok.\n", "/": b"Ok.\n"}


class ClickHouseApp:
    """ClickHouse's HTTP interface on one engine."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self._engine = engine
        self._options = options
        self._rules = load_rules(engine.ask)
        of_us = Admission(options.owner_statements, options.waiting_statements)
        self._admission = {
            Role.OWNER: of_us,
            Role.SINK: of_us,
            Role.REPORTING: of_us,
            Role.READER: Admission(options.reader_statements, options.waiting_statements),
            Role.TENANT: Admission(options.reader_statements, options.waiting_statements, shares=2),
        }
        self._users: dict[str, tuple[Role, str | None]] = {
            "default": (Role.OWNER, options.password),
            "sink": (Role.SINK, options.sink_password or None),
            "reporting": (Role.REPORTING, options.reporting_password or None),
            "reader": (Role.READER, options.reader_password or None),
        }
        self._workers = ThreadPoolExecutor(options.owner_statements + 2 * options.reader_statements, "statement")
        self._sessions = SessionStore()
        self._tenant_keys = TenantKeys(options.catalog, options.catalog_settings)
        self._running: dict[str, Exchange] = {}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one HTTP request (ASGI)."""
        if scope["type"] != "http":
            return
        plain = _PLAIN.get(scope["path"])
        if plain is None:
            await send_plain(send, 404, b"There is no handle for this path\n")
        elif scope["method"] not in {"GET", "HEAD", "POST", "OPTIONS"}:
            await send_plain(send, 405, b"Only GET, HEAD and POST\n", [(b"allow", b"GET, HEAD, POST")])
        elif scope["path"] != "/" or (scope["method"] in {"GET", "HEAD"} and b"query=" not in scope["query_string"]):
            await send_plain(send, 200, plain)
        else:
            await self._statement(scope, receive, send)

    async def _statement(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        query_id = str(uuid.uuid4())
        try:
            request, receive = await self._request(scope, receive)
            query_id = request.query_id or query_id
            user = self._user(request.credentials, scope["headers"])
            async with self._admission[user.role].enter(user.tenant):
                await self._run(replace(request, query_id=query_id), user, receive, send)
        except StatementError as exc:
            await send_error(send, exc, self._engine, common_headers(self._engine, query_id))

    async def _request(self, scope: MutableMapping[str, Any], receive: Receive) -> tuple[Request, Receive]:
        """The request, and where its body comes from: a form is read here, any other body later."""
        headers: Headers = scope["headers"]
        request = parse_request(scope["method"], scope["query_string"], headers)
        kind = next((value.decode("latin-1") for name, value in headers if name == b"content-type"), "")
        if not kind.startswith("multipart/form-data"):
            return request, receive
        fields = form_fields(kind, await _read_form(receive))
        return parse_request(scope["method"], scope["query_string"], headers, fields), _empty_body(receive)

    def _user(self, credentials: Credentials, headers: Headers) -> User:
        """Who gave the right password, or a tenant's key; raises 194, 516, or 210 while the catalog is not ready."""
        if self._options.anonymous_reader and not credentials.password and is_local_host(headers):
            if is_foreign_page(headers):
                raise refusal(REQUIRED_PASSWORD, "A web page of another origin does not read without a password.")
            return User(Role.READER)
        role, password = self._users.get(credentials.user, (Role.OWNER, None))
        if password is not None and hmac.compare_digest(password.encode(), credentials.password.encode()):
            return User(role)
        if self._tenant_keys.allows(credentials.user, credentials.password.encode(), time.time_ns() // 1_000_000):
            return User(Role.TENANT, credentials.user)
        if not credentials.given:
            raise refusal(REQUIRED_PASSWORD, f"{credentials.user}: Authentication failed: password is required.")
        raise refusal(
            AUTHENTICATION_FAILED,
            f"{credentials.user}: Authentication failed: password is incorrect, or there is no user with such name.",
        )

    async def _run(self, request: Request, user: User, receive: Receive, send: Send) -> None:
        if request.query_id in self._running:
            raise refusal(
                QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING, f"Query with id = {request.query_id} is already running."
            )
        pipe = ResultPipe()
        try:
            body = BodyFeed(asyncio.get_running_loop(), self._options.idle_seconds)
            execution = Execution(
                self._engine, self._rules, self._sessions, request, user, request.query_id, body, pipe.writing_end
            )
            exchange = Exchange(execution, pipe, receive, send, self._options.idle_seconds)
            self._running[request.query_id] = exchange
            await exchange.run(self._workers)
        finally:
            pipe.end()
            pipe.close()
            self._running.pop(request.query_id, None)

    def cancel_reads(self) -> None:
        """Cancel the statements that only read; their clients get QUERY_WAS_CANCELLED."""
        for exchange in self._running.values():
            exchange.cancel()

    def close(self) -> None:
        """Wait for the worker threads; called after the HTTP server has stopped."""
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._sessions.close()
        self._tenant_keys.close()


async def send_plain(send: Send, status: int, body: bytes, headers: Headers | None = None) -> None:
    """A short text that no statement made."""
    all_headers = [
        (b"content-type", b"text/plain; charset=UTF-8"),
        (b"content-length", str(len(body)).encode()),
        *HARMLESS_HEADERS,
        *(headers or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _read_form(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        piece = message.get("body", b"")
        size += len(piece)
        if size > FORM_BYTES_MAX:
            raise refusal(QUERY_IS_TOO_LARGE, f"The form is larger than {FORM_BYTES_MAX} bytes")
        pieces.append(piece)
        more = message.get("more_body", False)
    return b"".join(pieces)


def _empty_body(receive: Receive) -> Receive:
    """A `receive` whose body is already read."""
    is_sent = False

    async def rest() -> MutableMapping[str, Any]:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return rest


def is_local_host(headers: Headers) -> bool:
    """Whether the request names this machine as its host; a web page behind a rebound DNS name cannot."""
    host = _header(headers, b"host")
    return host.rpartition(":")[0] in _LOCAL_HOSTS or host in _LOCAL_HOSTS


def is_foreign_page(headers: Headers) -> bool:
    """Whether a browser says that a page of another origin asks, by fetch, form or `<script src>`."""
    site, origin = _header(headers, b"sec-fetch-site"), _header(headers, b"origin")
    return site not in {"", "none", "same-origin"} or origin not in {"", f"http://{_header(headers, b'host')}"}


def _header(headers: Headers, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in headers if name == wanted), "")
