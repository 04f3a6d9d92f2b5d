"""`/v1/links` and `/v1/promotions`: register, list, read, delete, and explain how a short URL resolves. Grant `admin`.

Bodies are NDJSON, one record per line, or a JSON array; a bad line refuses itself only, and the answer is a JSON array
with one result per line in order. A key acts on its own tenant; what belongs to another is as if it did not exist.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final

import orjson
from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from ingest_api import documentation as docs
from ingest_api.answers import RETRY_AFTER, Refusal, describe
from ingest_api.asgi import BodyTooLarge, peer_of, read_body, request_headers, respond
from ingest_api.authorize import GRANT_ADMIN, Caller, find_headers
from ingest_api.endpoints import clock_ms
from ingest_api.handler import WANTED, HandlerState, authenticate, rate_headers, throttled
from ingest_api.listing import CURSOR_CHARS_MAX, BadCursor
from ingest_api.metrics import Tallies
from ingest_api.registry import NotAShortUrl, Registered, Registry
from ingest_api.resolve import explain
from shared.errors import OperatorError, OutcomeUnknown, TransientError
from shared.http.answer import Answer, Header
from shared.links import GoodLine, RefusedLine

log = logging.getLogger(__name__)

RESOLVE_BYTES_MAX: Final = 16_384
LISTED_MAX: Final = 1_000
"""Links of one page."""
LISTED: Final = 100
_LIST_PARAMETERS: Final = frozenset(("promotion_id", "limit", "cursor"))

Rate = tuple[Header, ...]
"""The X-RateLimit-* headers."""


class _BadRequest(Exception):
    """The request as a whole is refused with `status` and a sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _TooManyAtOnce(Exception):
    """As many of a kind as may be are under way; `reason` is how another one is refused."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason = reason


class _Few:
    """Bounds how many of a kind are under way."""

    def __init__(self, state: HandlerState, reason: Refusal) -> None:
        self._state = state
        self._reason = reason
        self._number = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """One more. Raises _TooManyAtOnce."""
        if self._number >= self._state.settings.api_catalog_requests_max:
            raise _TooManyAtOnce(self._reason)
        self._number += 1
        try:
            yield
        finally:
            self._number -= 1


class LinksApi:
    """The handlers; each returns an `Answer`."""

    def __init__(self, state: HandlerState, registry: Registry, tallies: Tallies) -> None:
        self._state = state
        self._registry = registry
        self._tallies = tallies
        self._registrations = _Few(state, Refusal.REGISTRATIONS_FULL)  # records in memory are ten times their bytes
        self._listings = _Few(state, Refusal.LISTINGS_FULL)

    def add_to(self, app: FastAPI) -> None:
        """Add the routes with their documentation."""
        routes = (
            ("POST", "/v1/links", self.register_links, docs.REGISTER_LINKS),
            ("GET", "/v1/links", self.get_links, docs.GET_LINKS),
            ("DELETE", "/v1/links", self.delete_link, docs.DELETE_LINK),
            ("POST", "/v1/links/resolve", self.resolve_link, docs.RESOLVE_LINK),
            ("POST", "/v1/promotions", self.register_promotions, docs.REGISTER_PROMOTIONS),
            ("GET", "/v1/promotions", self.get_promotion, docs.GET_PROMOTION),
            ("DELETE", "/v1/promotions", self.delete_promotion, docs.DELETE_PROMOTION),
        )
        for method, path, endpoint, documented in routes:
            app.add_api_route(path, endpoint, methods=[method], response_model=None, **documented)

    async def register_links(self, request: Request) -> Response:
        """Register or replace links."""

        async def work(caller: Caller, rate: Rate) -> Answer:
            body = await self._body(request)
            with self._registrations.one():
                lines = self._lines(body)
                return self._results("link", await self._registry.put_links(caller.tenant, lines, clock_ms()), rate)

        return await self._serve(request, work)

    async def register_promotions(self, request: Request) -> Response:
        """Register or replace promotions."""

        async def work(caller: Caller, rate: Rate) -> Answer:
            body = await self._body(request)
            with self._registrations.one():
                lines = self._lines(body)
                return self._results("promotion_id", await self._registry.put_promotions(caller.tenant, lines), rate)

        return await self._serve(request, work)

    async def get_links(
        self,
        request: Request,
        short_url: Annotated[str | None, Query(description="Only this link, itself: no list")] = None,
        promotion_id: Annotated[str | None, Query(min_length=1, max_length=256, description="Only its links")] = None,
        limit: Annotated[int, Query(ge=1, le=LISTED_MAX, description="Links of a page at most")] = LISTED,
        cursor: Annotated[str, Query(max_length=CURSOR_CHARS_MAX, description="`next_cursor` of a page")] = "",
    ) -> Response:
        """Links of the tenant, a page at a time; with `short_url` one link, by its exact key."""

        async def find(caller: Caller, rate: Rate) -> Answer:
            assert short_url is not None
            if beside := _LIST_PARAMETERS & request.query_params.keys():
                raise _BadRequest(400, f"{', '.join(sorted(beside))}: of a list, not of the link short_url.")
            return self._found(self._registry.link(caller.tenant, short_url), rate)

        async def list_some(caller: Caller, rate: Rate) -> Answer:
            for name in request.query_params.keys() - _LIST_PARAMETERS:  # a misspelt filter must not list everything
                raise _BadRequest(
                    400, f"{name!r:.60} is no parameter; there are {', '.join(sorted(_LIST_PARAMETERS))}."
                )
            with self._listings.one():
                page = await self._registry.links(caller.tenant, promotion_id, cursor=cursor, links_max=limit)
            next_cursor = orjson.dumps(page.next_cursor)
            return Answer(200, b'{"links":[%b],"next_cursor":%b}' % (b",".join(page.records), next_cursor), rate)

        return await self._serve(request, list_some if short_url is None else find)

    async def get_promotion(self, request: Request, promotion_id: str) -> Response:
        """One promotion."""

        async def work(caller: Caller, rate: Rate) -> Answer:
            return self._found(self._registry.promotion(caller.tenant, promotion_id), rate)

        return await self._serve(request, work)

    async def delete_link(self, request: Request, short_url: str) -> Response:
        """Delete one link."""

        async def work(caller: Caller, rate: Rate) -> Answer:
            return self._deleted(await self._registry.delete_link(caller.tenant, short_url), rate)

        return await self._serve(request, work)

    async def delete_promotion(self, request: Request, promotion_id: str) -> Response:
        """Delete one promotion."""

        async def work(caller: Caller, rate: Rate) -> Answer:
            return self._deleted(await self._registry.delete_promotion(caller.tenant, promotion_id), rate)

        return await self._serve(request, work)

    async def resolve_link(self, request: Request) -> Response:
        """Show what a click on a short URL would be resolved to now, and why not."""

        async def work(caller: Caller, rate: Rate) -> Answer:
            try:
                fields = orjson.loads(await read_body(request, RESOLVE_BYTES_MAX))
            except orjson.JSONDecodeError:
                fields = None
            short_url = fields.get("short-url") if isinstance(fields, dict) else None
            if not isinstance(short_url, str) or not short_url.strip():
                raise _BadRequest(400, 'A JSON object with the text "short-url" is needed.')
            return Answer(200, orjson.dumps(self._explain(caller, short_url)), rate)

        return await self._serve(request, work)

    async def _serve(self, request: Request, work: Callable[[Caller, Rate], Awaitable[Answer]]) -> Response:
        """Authorization, grant and throttle, then the work; what it raises as an answer. Counted."""
        caller, rate = self._admit(request)
        answer = caller if isinstance(caller, Answer) else await self._answer(work, caller, rate)
        return respond(self._tallies.other(answer))

    async def _answer(self, work: Callable[[Caller, Rate], Awaitable[Answer]], caller: Caller, rate: Rate) -> Answer:
        plain = self._state.answers.plain
        try:
            return await work(caller, rate)
        except BodyTooLarge as exc:
            return plain(413, f"The body has more than {exc.bytes_max:,} bytes.", rate, close=True)
        except _BadRequest as exc:
            return plain(exc.status, str(exc), rate)
        except _TooManyAtOnce as many:
            return plain(503, describe(many.reason), _again(rate), reason=many.reason)
        except NotAShortUrl as exc:
            return plain(400, f"short_url: {exc}", rate)
        except BadCursor as exc:
            return plain(400, str(exc), rate)
        except OutcomeUnknown:
            return plain(503, "Whether it was written is not known; the same request again does no harm.", _again(rate))
        except (TransientError, OperatorError) as exc:
            log.warning("the catalog was not changed: %s", exc)
            return plain(503, "Nothing was written; try again.", _again(rate))

    def _explain(self, caller: Caller, short_url: str) -> dict[str, Any]:
        """Another tenant's link looks exactly like none."""
        state = self._state
        found = explain(state.catalog, caller.tenant, short_url, now_ms=clock_ms(), retention_ms=caller.retention_ms)
        refusal = found.refusal
        if refusal is Refusal.LINK_OF_OTHER_TENANT:
            refusal = Refusal.LINK_UNKNOWN
        promotion_id = found.link["promotion_id"] if found.link else None
        promotion = self._registry.promotion(caller.tenant, promotion_id) if promotion_id else None
        return {
            "short_url": short_url,
            "key": found.key or None,
            "rule": found.rule or None,
            "link": found.link,
            "tenant": caller.tenant if found.link else None,
            "promotion_id": promotion_id,
            "promotion": promotion,
            "recorded": refusal is None,
            "code": self._state.answers.code(refusal) if refusal else None,
            "reason": str(refusal) if refusal else None,
            "why_not": found.why_not or None,
        }

    def _admit(self, request: Request) -> tuple[Caller | Answer, Rate]:
        state, now_ms = self._state, clock_ms()
        found = find_headers(request_headers(request), WANTED)
        caller = authenticate(state, found, peer_of(request), now_ms, GRANT_ADMIN)
        if isinstance(caller, Answer):
            return self._stranger(caller), ()
        taken = state.throttle.take(caller.key_id, caller.rate_limit, 1, now_ms)
        if not taken.granted:
            return throttled(state, caller, taken), ()
        return caller, rate_headers(caller, taken)

    def _stranger(self, answer: Answer) -> Answer:
        """A failed authentication in the form of every endpoint but the clicks': the code is the HTTP status."""
        plain = self._state.answers.plain
        text = describe(Refusal(answer.reason))
        match answer.reason:
            case Refusal.GRANT_MISSING:
                return plain(403, "The key has no grant for this.", answer.headers, reason=answer.reason)
            case Refusal.AUTHENTICATIONS_FAILED:
                return plain(429, text, answer.headers, reason=answer.reason)
            case Refusal.CATALOG_NOT_READY:
                return plain(503, text, answer.headers, reason=answer.reason)
            case _:
                headers = (*answer.headers, (b"www-authenticate", b"Bearer"))
                return plain(401, text, headers, reason=answer.reason)

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self._state.settings.api_catalog_bytes_max)

    def _lines(self, body: bytes) -> list[object]:
        """The body's records; a line that is no JSON stands as None."""
        settings = self._state.settings
        lines = _split(body)
        if lines is None:
            raise _BadRequest(400, "The body is neither NDJSON nor a JSON array.")
        if len(lines) > settings.api_catalog_lines_max:
            raise _BadRequest(413, f"At most {settings.api_catalog_lines_max:,} lines a request, not {len(lines):,}.")
        return lines

    def _results(self, name: str, registered: Registered, rate: Rate) -> Answer:
        results = [self._result(name, line) for line in registered.results]
        return Answer(200, orjson.dumps(results), (*rate, *_version(registered.version)))

    def _result(self, name: str, line: GoodLine | RefusedLine) -> Mapping[str, Any]:
        if isinstance(line, GoodLine):
            return {name: line.id}
        refused: dict[str, Any] = orjson.loads(
            self._state.answers.plain(409 if line.is_conflict else 400, line.text).body
        )
        return refused

    def _found(self, record: Mapping[str, Any] | None, rate: Rate) -> Answer:
        if record is None:
            return self._state.answers.plain(404, "", rate)
        return Answer(200, orjson.dumps(record), rate)

    def _deleted(self, version: int | None, rate: Rate) -> Answer:
        if version is None:
            return self._state.answers.plain(404, "", rate)
        return Answer(200, b'{"deleted":true}', (*rate, *_version(version)))


def _again(rate: Rate) -> Rate:
    return (*rate, RETRY_AFTER)


def _version(version: int) -> Sequence[Header]:
    """The catalog version that holds what was written."""
    return [(b"x-catalog-version", b"%d" % version)] if version >= 0 else []


def _split(body: bytes) -> list[object] | None:
    """Lines or items; a line that is no JSON is None. None for a body that is an array but no JSON."""
    body = body.removeprefix(b"\xef\xbb\xbf").strip()
    if body.startswith(b"["):
        try:
            items: list[object] = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        return items
    return [_load(line) for line in map(bytes.strip, body.split(b"\n")) if line] or None


def _load(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
