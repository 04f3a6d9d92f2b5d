"""Sends one request to an address that may be reached: the only place that opens connections for webhooks.

Rules. The name is looked up here, all of its addresses must be allowed, and the address is checked once more when its
socket is made: whatever the name means a moment later, the connection goes to the address that was checked. No redirects,
no proxies, no cookies; of the answer the status and `Retry-After` are read, of its body a bounded part that is thrown away.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from reporting.webhooks.addresses import BadUrl, Reach, Target
from reporting.webhooks.messages import Message
from reporting.webhooks.schedule import Attempt, Outcome, outcome_of, read_retry_after
from shared.errors import OperatorError
from shared.settings import WebhookSettings

ANSWER_BYTES_MAX: Final = 65_536
"""Read of an answer's body so that its connection can be used again; a longer one is cut off."""
NAMES_AT_ONCE: Final = 64
"""Look-ups of names at the same time: a thread each, and a name server that does not answer holds one for seconds."""
IDLE_S: Final = 15.0
"""Seconds that an idle connection is kept: a name that moved is followed soon."""


class RefusedAddress(OSError):
    """An address that may not be reached."""


class _Resolver(AbstractResolver):
    """Looks names up in threads of its own, and refuses a name if any of its addresses is refused."""

    def __init__(self, reach: Reach, threads: ThreadPoolExecutor, *, is_local: bool) -> None:
        self._reach, self._threads, self._is_local = reach, threads, is_local

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """All addresses of a name. Raises RefusedAddress, OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, look_up, host, port, family)
        for _family, _type, _proto, _name, address in found:
            check(self._reach, str(address[0]), is_local=self._is_local)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=family_of,
                proto=proto,
                flags=socket.AI_NUMERICHOST,
            )
            for family_of, _type, proto, _name, address in found
        ]

    async def close(self) -> None:
        """The threads are the sender's."""


def look_up(host: str, port: int, family: int) -> list[Any]:
    """The system's answer for a name."""
    return list(socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM))


def check(reach: Reach, address: str, *, is_local: bool) -> None:
    """Raise RefusedAddress for an address that may not be reached; one with a zone never may."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError as exc:
        raise RefusedAddress(f"{address} is no address") from exc
    if getattr(parsed, "scope_id", None) or not reach.permits(parsed, is_local=is_local):
        raise RefusedAddress(f"{address} may not be reached")


class Sender:
    """Sends messages, as an async context manager. Each host has its own connections; nothing waits for another host."""

    def __init__(self, settings: WebhookSettings, reach: Reach) -> None:
        self._timeout_s = settings.webhooks_timeout_ms / 1_000
        self._reach = reach
        self._tls = _tls(settings)
        self._threads = ThreadPoolExecutor(NAMES_AT_ONCE, "webhook-names")
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Self:
        self._sessions = {is_local: self._session(is_local=is_local) for is_local in (False, True)}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._sessions.values():
            await session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _session(self, *, is_local: bool) -> aiohttp.ClientSession:
        def make_socket(address: Any) -> socket.socket:
            check(self._reach, str(address[4][0]), is_local=is_local)
            made = socket.socket(*address[:3])
            made.setblocking(False)  # noqa: FBT003  # the standard library's own signature
            return made

        connector = aiohttp.TCPConnector(
            resolver=_Resolver(self._reach, self._threads, is_local=is_local),
            use_dns_cache=False,
            ssl=self._tls,
            limit=0,  # one request at a time for each line of work: their number is the bound
            keepalive_timeout=IDLE_S,
            socket_factory=make_socket,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            auto_decompress=False,
            skip_auto_headers=("accept", "accept-encoding"),
            trust_env=False,
        )

    async def send(self, url: str, message: Message, fields: dict[str, str]) -> Attempt:
        """One attempt and how it ended; raises nothing but CancelledError."""
        began = time.monotonic()
        outcome, status, retry_after_ms = await self._send(url, message, fields)
        return Attempt(outcome, status, retry_after_ms, int((time.monotonic() - began) * 1_000))

    async def _send(self, url: str, message: Message, fields: dict[str, str]) -> tuple[Outcome, int | None, int | None]:
        try:
            target = self._reach.target(url)
            async with self._post(target, message, fields) as answer:
                retry_after_ms = read_retry_after(answer.headers.get("retry-after"), time.time_ns() // 1_000_000)
                await _drain(answer)
                return outcome_of(answer.status), answer.status, retry_after_ms
        except BadUrl:  # the settings have changed since it was given
            return Outcome.REFUSED_ADDRESS, None, None
        except TimeoutError:
            return Outcome.TIMEOUT, None, None
        except (aiohttp.ClientError, OSError, ValueError) as exc:  # ValueError: a field the library cannot read
            return _outcome_of_error(exc), None, None

    def _post(self, target: Target, message: Message, fields: dict[str, str]) -> Any:
        session = self._sessions[target.is_local]
        return session.post(URL(target.url, encoded=True), data=message.body, headers=fields, allow_redirects=False)


async def _drain(answer: aiohttp.ClientResponse) -> None:
    left = ANSWER_BYTES_MAX
    while left > 0:
        part = await answer.content.read(left)
        if not part:
            return
        left -= len(part)
    answer.close()


def _outcome_of_error(exc: BaseException) -> Outcome:
    """Look through the causes: the library wraps what the socket said."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, RefusedAddress):
            return Outcome.REFUSED_ADDRESS
        if isinstance(cause, socket.gaierror):
            return Outcome.NAME
        if isinstance(cause, (ssl.SSLError, ssl.CertificateError, aiohttp.ClientSSLError)):
            return Outcome.TLS
        cause = getattr(cause, "os_error", None) or cause.__cause__
    return Outcome.CONNECTION


def _tls(settings: WebhookSettings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if settings.webhooks_ca_file:
        try:
            context.load_verify_locations(settings.webhooks_ca_file)
        except (OSError, ssl.SSLError) as exc:
            raise OperatorError(f"settings: CLICKLEDGER_WEBHOOKS_CA_FILE: {exc}") from exc
    return context
