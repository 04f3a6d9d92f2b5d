"""One click: from the bytes of a request to an answer or a click waiting to be published. Pure: no I/O, no clock.

Order of checks: method, authorization, grant, throttle, size and type, JSON, mandatory field, link, retention.
The body of a caller who is not authenticated is not parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from os import urandom
from typing import Any, Final, NamedTuple, Protocol

import orjson

from ingest_api.acceptance import Acceptance
from ingest_api.answers import ACCEPTED_AROUND, Answers, Refusal, accepted_body
from ingest_api.authorize import (
    GRANT_CLICKS,
    Caller,
    Callers,
    KeyCatalog,
    client_address,
    find_headers,
    parse_networks,
)
from ingest_api.parse import Refused, check_content, is_idempotency_key, parse_click, plain_urls, too_large
from ingest_api.resolve import LinkCatalog
from ingest_api.share import Share
from ingest_api.throttle import FailureLimiter, Taken, Throttle
from shared.http.answer import AlikeAnswers, Answer, Header
from shared.ids import Tails
from shared.settings import ApiSettings
from shared.stored_links import StoredLink

Headers = Sequence[Header]
"""(lower-case name, raw value) pairs, as httptools gives them."""
Found = Mapping[bytes, list[bytes]]
"""The values of the headers that matter here."""

PATHS: Final[frozenset[bytes]] = frozenset(
    prefix + b"/resources/v3/shortlinkclicks" + slash
    for prefix in (b"/campaignapi", b"/imicampaignapi")
    for slash in (b"", b"/")
)
"""The request targets of the click endpoint; anything after `?` is ignored."""

AGENT_BYTES_MAX: Final = 2048
"""Bytes of a caller's own User-Agent header that travel in the raw record (as much as the table stores)."""

WANTED: Final = frozenset(
    (
        b"authorization",
        b"content-type",
        b"content-encoding",
        b"content-length",
        b"idempotency-key",
        b"user-agent",
        b"x-forwarded-for",
    )
)
_FIELDS: Final = frozenset((b"authorization", b"content-type", b"content-encoding", b"idempotency-key"))
"""What `JudgedHead` follows from."""
_FIELDS_WITH_AGENT: Final = _FIELDS | {b"user-agent"}


class ClickCatalog(KeyCatalog, LinkCatalog, Protocol):
    """The part of `shared.catalog.Catalog` that a click needs."""

    def exact_links(self, keys: Sequence[str]) -> list[StoredLink] | None:
        """The links registered under exactly these keys, in order; None when any has none."""

    def stream(self, topic: str) -> dict[str, Any] | None:
        """The record of the stream that a raw topic carries."""


class PendingClick(NamedTuple):
    """An accepted click, and the answer to send once it is durable."""

    share: Share
    answer: Answer


class PendingTurn(NamedTuple):
    """Accepted clicks of requests of their own, and for each place the answer to send once they are durable."""

    share: Share
    answers: AlikeAnswers


class HandlerState:
    """What a process keeps between requests. Built once by the composition root, after forking."""

    def __init__(
        self,
        *,
        catalog: ClickCatalog,
        throttle: Throttle,
        failures: FailureLimiter,
        settings: ApiSettings,
        topic_raw: str,
        node: str,
        next_partition: Callable[[], int],
        random_bytes: Callable[[int], bytes] = urandom,
    ) -> None:
        """`next_partition` chooses where a click without key goes; `random_bytes(n)` is a cryptographic source."""
        self.catalog = catalog
        self.throttle = throttle
        self.failures = failures
        self.settings = settings
        self.topic_raw = topic_raw
        self.next_partition = next_partition
        self.tails = Tails(random_bytes)
        self.clean_clicks = 0
        """Clicks of batches that were accepted together since some had to be checked each by itself."""
        self.body_bytes_max = settings.api_body_bytes_max
        self.ahead_ms_max = settings.api_clicked_at_ahead_ms_max
        self.trusted_proxies = parse_networks(settings.api_trusted_proxies)
        self.answers = Answers(
            code_type=settings.api_code_type,
            invalid_token_status=settings.api_invalid_token_status,
            invalid_input_status=settings.api_invalid_input_status,
        )
        self.callers = Callers(
            catalog,
            node=node,
            cache_max=settings.api_key_cache_max,
            rate_limit=settings.api_rate_limit,
            retention_days=settings.api_retention_days,
        )


def precheck(
    state: HandlerState,
    method: bytes,
    headers: Headers,
    peer: str,
    now_ms: int,
    *,
    body_bytes_max: int | None = None,
) -> Answer | None:
    """An answer that can be given before the body is read, else None; `body_bytes_max` is for other endpoints.

    For 405, 498, 430, 429 and an oversized Content-Length. Optional: `handle` repeats every check. It takes from the
    throttle only when it answers for the size, so a click is never counted twice.
    """
    found = find_headers(headers, WANTED)
    caller = admit(state, method, found, peer, now_ms)
    if isinstance(caller, Answer):
        return caller
    bytes_max = body_bytes_max or state.body_bytes_max
    if _declared_bytes(found) > bytes_max:
        return _too_large(state, caller, now_ms, bytes_max)
    seen = state.throttle.take(caller.key_id, caller.rate_limit, 0, now_ms)
    return None if seen.remaining else throttled(state, caller, seen)


def refuse_oversized(
    state: HandlerState, method: bytes, headers: Headers, peer: str, now_ms: int, *, body_bytes_max: int
) -> Answer:
    """The answer for a body that grew past the limit while it was streamed; the connection closes."""
    caller = admit(state, method, find_headers(headers, WANTED), peer, now_ms)
    return (
        caller._replace(close=True) if isinstance(caller, Answer) else _too_large(state, caller, now_ms, body_bytes_max)
    )


def handle(
    state: HandlerState,
    method: bytes,
    target: bytes,
    headers: Headers,
    body: bytes,
    peer: str,
    now_ms: int,
) -> Answer | PendingClick:
    """Check one click and give its answer, or the click to publish with the answer to give once it is durable."""
    judged = judge_head(state, method, target, headers, peer, now_ms)
    return judged if isinstance(judged, Answer) else judge_body(state, judged, body, now_ms)


class JudgedHead(NamedTuple):
    """What the head of a click's request says, all that its header fields have a part in."""

    caller: Caller
    idempotency_key: str | None
    agent: bytes
    """The caller's own User-Agent as a JSON string, where the key asks for it."""
    refused: Refused | None
    """What is to be refused for its type or its key, after throttle and size."""
    catalog_version: int
    """Of the catalog that the caller was found in."""

    @property
    def is_plain(self) -> bool:
        """Whether clicks with this head differ in nothing but their bodies, and are judged by them alone."""
        return self.idempotency_key is None and self.refused is None

    @property
    def fields(self) -> frozenset[bytes]:
        """Names of the fields from which it follows: a head with the same values in these says the same."""
        return _FIELDS_WITH_AGENT if self.caller.is_agent_source else _FIELDS

    def holds(self, catalog: ClickCatalog, now_ms: int) -> bool:
        """Whether it would be judged the same now: same catalog, and neither it nor the secret has ended."""
        ends_at_ms = self.caller.expires_at_ms
        is_same = catalog.version == self.catalog_version and catalog.is_ready
        return is_same and (ends_at_ms is None or now_ms < ends_at_ms)


def judge_head(
    state: HandlerState, method: bytes, target: bytes, headers: Headers, peer: str, now_ms: int
) -> JudgedHead | Answer:
    """The part of the checks that only needs the head; whoever has the same head again may keep it while it holds."""
    if target not in PATHS and target.partition(b"?")[0] not in PATHS:
        return state.answers.refuse(Refusal.PATH_UNKNOWN)
    found = find_headers(headers, WANTED)
    caller = admit(state, method, found, peer, now_ms)
    if isinstance(caller, Answer):
        return caller
    refused = check_content(found.get(b"content-type", ()), found.get(b"content-encoding", ()))
    key = read_idempotency_key(found.get(b"idempotency-key", ()))
    if isinstance(key, Refusal):
        refused, key = refused or Refused(key), None
    agent = caller_agent(found) if caller.is_agent_source else b""
    return JudgedHead(caller, key, agent, refused, state.catalog.version)


def judge_body(state: HandlerState, head: JudgedHead, body: bytes, now_ms: int) -> Answer | PendingClick:
    """The rest of the checks: throttle, size and what the head is refused for, then the body."""
    taken = state.throttle.take(head.caller.key_id, head.caller.rate_limit, 1, now_ms)
    return judge_taken(state, head, taken, body, now_ms)


def judge_taken(state: HandlerState, head: JudgedHead, taken: Taken, body: bytes, now_ms: int) -> Answer | PendingClick:
    """The same for a click for which this was taken from the throttle."""
    caller, idempotency_key, agent, refused, _ = head
    make = tuple.__new__  # a third of the time of calling a named tuple's class
    if not taken.granted:
        return throttled(state, caller, taken)
    rate = rate_headers(caller, taken)
    if len(body) > state.body_bytes_max:
        return state.answers.refuse(Refusal.BODY_TOO_LARGE, too_large("body", state.body_bytes_max), rate, close=True)
    if refused is not None:
        return state.answers.refuse(refused.refusal, refused.detail, rate)
    click = parse_click(body)
    if isinstance(click, Refused):
        return state.answers.refuse(click.refusal, click.detail, rate)
    share = Acceptance(state, caller, caller.origin, agent, now_ms).judge(click, idempotency_key)
    if isinstance(share, Refusal):
        return state.answers.refuse(share, "", rate)
    answer = make(Answer, (200, accepted_body(share.keys[0]), rate, False, ""))
    return make(PendingClick, (share, answer))


def accept_together(
    state: HandlerState, head: JudgedHead, taken: Taken, bodies: Sequence[bytes], now_ms: int
) -> PendingTurn | None:
    """What `judge_taken` gives for each body, when all are ordinary clicks that are accepted; None when each is to be judged.

    `taken` for all of them. The rules stay there; nothing is refused or counted here (docs/adr/0031).
    """
    granted, left, _ = taken
    if not (granted == len(bodies) and head.is_plain) or max(map(len, bodies)) > state.body_bytes_max:
        return None
    short_urls = plain_urls(bodies)
    if short_urls is None:
        return None
    caller = head.caller
    share = Acceptance(state, caller, caller.origin, head.agent, now_ms).accept_all(short_urls, bodies)
    if share is None:
        return None
    *same, (name, _) = rate_headers(caller, taken)
    before, after = ACCEPTED_AROUND
    numbers = range(left + granted - 1, left - 1, -1)
    return PendingTurn(share, AlikeAnswers(200, tuple(same), name, numbers, before, share.keys, after))


def admit(state: HandlerState, method: bytes, found: Found, peer: str, now_ms: int) -> Caller | Answer:
    """The first three checks: method, authorization, grant."""
    if method != b"POST":
        return state.answers.refuse(Refusal.METHOD)
    return authenticate(state, found, peer, now_ms, GRANT_CLICKS)


def authenticate(state: HandlerState, found: Found, peer: str, now_ms: int, grant: str) -> Caller | Answer:
    """Authorization and grant, for any endpoint."""
    caller = state.callers.find(found.get(b"authorization", ()), now_ms)
    if isinstance(caller, Refusal):
        return _refuse_stranger(state, caller, found, peer, now_ms)
    if grant not in caller.grants:
        seen = state.throttle.take(caller.key_id, caller.rate_limit, 0, now_ms)
        return state.answers.refuse(Refusal.GRANT_MISSING, "", rate_headers(caller, seen))
    return caller


def _refuse_stranger(state: HandlerState, refusal: Refusal, found: Found, peer: str, now_ms: int) -> Answer:
    """Refuse a failed authentication and count it; a catalog that is not ready is not the caller's failure."""
    if refusal is not Refusal.CATALOG_NOT_READY:
        address = client_address(peer, found.get(b"x-forwarded-for", ()), state.trusted_proxies)
        if not state.failures.allows(address, now_ms):
            wait = (b"retry-after", b"%d" % state.failures.retry_after_s(now_ms))
            return state.answers.refuse(Refusal.AUTHENTICATIONS_FAILED, "", (wait,))
    return state.answers.refuse(refusal)


def refuse_unpublished(state: HandlerState, answer: Answer, refusal: Refusal = Refusal.NOT_DURABLE) -> Answer:
    """The 500 instead of `answer` for a click that was not published: NOT_DURABLE, OUTCOME_UNKNOWN, OVERLOADED or STOPPING."""
    return state.answers.refuse(refusal, "", answer.headers)


def rate_headers(caller: Caller, taken: Taken) -> tuple[Header, ...]:
    """The X-RateLimit-* headers that every authenticated answer carries."""
    return caller.limit_header, _reset_header(taken.reset_s), (b"x-ratelimit-remaining", b"%d" % taken.remaining)


@lru_cache(maxsize=64)
def _reset_header(reset_s: int) -> Header:
    return b"x-ratelimit-reset", b"%d" % reset_s


def throttled(state: HandlerState, caller: Caller, taken: Taken) -> Answer:
    """429 for a whole request, to be tried again when the window has ended."""
    wait = (b"retry-after", b"%d" % taken.reset_s)
    return state.answers.refuse(Refusal.THROTTLED, "", (wait, *rate_headers(caller, taken)))


def read_idempotency_key(values: Sequence[bytes]) -> str | Refusal | None:
    """The key in the values of all Idempotency-Key headers; None when there is none."""
    if not values:
        return None
    text = values[0].decode("latin-1").strip(" \t")
    return text if len(values) == 1 and is_idempotency_key(text) else Refusal.IDEMPOTENCY_KEY


def _too_large(state: HandlerState, caller: Caller, now_ms: int, bytes_max: int) -> Answer:
    taken = state.throttle.take(caller.key_id, caller.rate_limit, 1, now_ms)
    if not taken.granted:
        return throttled(state, caller, taken)._replace(close=True)
    return state.answers.refuse(
        Refusal.BODY_TOO_LARGE, too_large("body", bytes_max), rate_headers(caller, taken), close=True
    )


def _declared_bytes(found: Found) -> int:
    """The Content-Length; 0 when there is none or it is no number (the HTTP parser refuses those)."""
    text = b"".join(found.get(b"content-length", ())[:1]).strip()
    return int(text) if text.isdigit() and len(text) <= 18 else (1 << 60 if text.isdigit() else 0)


def caller_agent(found: Found) -> bytes:
    """The caller's own User-Agent header as a JSON string; empty when there is none."""
    text = b" ".join(found.get(b"user-agent", ())[:1]).decode("latin-1").strip()
    text = text.encode()[:AGENT_BYTES_MAX].decode(errors="ignore")
    return orjson.dumps(text) if text else b""
