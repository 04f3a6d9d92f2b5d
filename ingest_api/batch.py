"""`POST /v1/clicks`: many clicks in one request, as NDJSON or a JSON array; one result per click, in order.

A bad line refuses itself only. What refuses the whole request: authorization, a used-up throttle, size, type, a body
that cannot be split into clicks, too many of them. Blank lines are no clicks and get no result. The answer is a JSON
array with one result per line of text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from ingest_api.acceptance import Acceptance
from ingest_api.answers import RESULTS_APART, RETRY_AFTER, Refusal, accepted_body, all_accepted
from ingest_api.authorize import find_headers
from ingest_api.handler import (
    WANTED,
    HandlerState,
    Headers,
    admit,
    caller_agent,
    rate_headers,
    throttled,
)
from ingest_api.parse import (
    BATCH_TYPE,
    Click,
    Refused,
    check_content,
    is_idempotency_key,
    parse_items,
    parse_line,
    plain_urls,
    too_large,
    too_long,
    without_bom,
)
from ingest_api.share import Share
from shared.http.answer import Answer, Header

BATCH_PATHS: Final[frozenset[bytes]] = frozenset((b"/v1/clicks", b"/v1/clicks/"))


TOGETHER: Final = 25
"""Clicks that are checked together: one that is refused costs its neighbours the short way, and the others of its batch not."""
TOGETHER_MAX: Final = 100
"""The same while nothing is refused: a step over so many costs a tenth less for each."""
CLEAN: Final = 2_000
"""Clicks that have to be accepted together first: what is tried in vain then is a few of a hundred."""


class RefusedLine(NamedTuple):
    """A click of a batch that was not accepted."""

    refusal: Refusal
    body: bytes
    """Its result: `code` and `description`."""


class PendingBatch:
    """A batch whose `shares` must be published before `finish` gives its answer; there may be none."""

    def __init__(
        self,
        state: HandlerState,
        lines: int,
        shares: Sequence[Share],
        refused: Mapping[int, RefusedLine],
        rate: tuple[Header, ...],
    ) -> None:
        self._answers = state.answers
        self._lines = lines
        self._refused = refused
        self._rate = rate
        self.shares = shares
        """What to publish, each in order; their places are those of the lines. One, unless clicks bring keys of their own."""
        self.clicks = lines - len(refused)
        """In all shares."""
        self.refusals: Counter[Refusal] = Counter(line.refusal for line in refused.values())
        """Refused lines by reason, for counters; complete after `finish`."""

    def finish(self, failed: Mapping[int, Refusal]) -> Answer:
        """The answer; `failed` says by its place why a click may not be durable, all others are.

        When clicks were to be published and none could be, the whole request is a 500, so that a client that only
        looks at the status tries again.
        """
        shares = self.shares
        if not failed and len(shares) == 1 and self.clicks == self._lines:
            return Answer(200, b"[%b]" % all_accepted(shares[0].keys), self._rate)
        self.refusals.update(failed.values())
        if failed and len(failed) == self.clicks:
            return self._answers.refuse(failed[max(failed)], "", self._rate)
        results = [b""] * self._lines
        for place, line in self._refused.items():
            results[place] = line.body
        for share in shares:
            for place, key in zip(share.places, share.keys, strict=True):
                results[place] = self._answers.body(failed[place]) if place in failed else accepted_body(key)
        headers = (RETRY_AFTER, *self._rate) if failed else self._rate
        return Answer(200, b"[%b]" % RESULTS_APART.join(results), headers)


class _Checked:
    """The outcome of a batch's checks, place by place."""

    def __init__(self) -> None:
        self.refused: dict[int, RefusedLine] = {}
        self._columns: dict[tuple[int, int, bool], tuple[list[bytes], list[bytes], list[int]]] = {}

    def accept(self, share: Share, first: int) -> None:
        """These go where others like them go; the first of them stands at this place."""
        partition, timestamp_ms, suspect, some_keys, some_values, some_places = share
        keys, values, places = self._columns.setdefault((partition, timestamp_ms, suspect), ([], [], []))
        keys += some_keys
        values += some_values
        places += range(first, first + len(some_places))

    def shares(self) -> list[Share]:
        """All that were accepted."""
        return [Share(*alike, *columns) for alike, columns in self._columns.items()]


def handle_batch(
    state: HandlerState, headers: Headers, body: bytes, peer: str, now_ms: int, *, method: bytes = b"POST"
) -> Answer | PendingBatch:
    """Check a batch: the answer that refuses all of it, or the clicks to publish and the results of the others."""
    found = find_headers(headers, WANTED)
    caller = admit(state, method, found, peer, now_ms)
    if isinstance(caller, Answer):
        return caller
    seen = state.throttle.take(caller.key_id, caller.rate_limit, 0, now_ms)
    if not seen.remaining:
        return throttled(state, caller, seen)
    rate = rate_headers(caller, seen)
    if len(body) > state.settings.api_batch_bytes_max:
        return state.answers.refuse(
            Refusal.BODY_TOO_LARGE, too_large("body", state.settings.api_batch_bytes_max), rate, close=True
        )
    refused = check_content(found.get(b"content-type", ()), found.get(b"content-encoding", ()), BATCH_TYPE)
    if refused is None and b"idempotency-key" in found:
        refused = Refused(Refusal.IDEMPOTENCY_KEY, 'In a batch each click brings its own field "idempotency-key".')
    clicks = _split(body, state.settings.api_batch_clicks_max) if refused is None else refused
    if isinstance(clicks, Refused):
        return state.answers.refuse(clicks.refusal, clicks.detail, rate)
    taken = state.throttle.take(caller.key_id, caller.rate_limit, len(clicks), now_ms)
    agent = caller_agent(found) if caller.is_agent_source else b""
    acceptance = Acceptance(state, caller, caller.batch_origin, agent, now_ms)
    checked = _check_lines(state, clicks[: taken.granted], acceptance)
    over = RefusedLine(Refusal.THROTTLED, state.answers.body(Refusal.THROTTLED))
    refused_lines = checked.refused | dict.fromkeys(range(taken.granted, len(clicks)), over)
    rate = rate_headers(caller, taken)
    if taken.granted < len(clicks):
        rate = ((b"retry-after", b"%d" % taken.reset_s), *rate)
    return PendingBatch(state, len(clicks), checked.shares(), refused_lines, rate)


def _split(body: bytes, clicks_max: int) -> list[bytes] | list[Click | Refused] | Refused:
    """The lines of NDJSON, not yet read, or the items of an array."""
    body = without_bom(body).strip()
    if not body:
        return Refused(Refusal.BODY_EMPTY)
    if body.startswith(b"["):
        return parse_items(body, clicks_max)
    lines = [line for line in map(bytes.strip, body.split(b"\n")) if line]
    return too_long(len(lines), clicks_max) if len(lines) > clicks_max else lines


def _check_lines(state: HandlerState, clicks: Sequence[bytes | Click | Refused], acceptance: Acceptance) -> _Checked:
    """Check the clicks, some at a time: together, else each by itself."""
    checked, first = _Checked(), 0
    while first < len(clicks):
        size = TOGETHER if state.clean_clicks < CLEAN else TOGETHER_MAX
        share, some = _check_together(state, clicks[first : first + size], acceptance)
        if share is not None:
            checked.accept(share, first)
            state.clean_clicks += len(some)
            first += len(some)
            continue
        state.clean_clicks = 0
        if len(some) > TOGETHER:
            continue  # once more, fewer at a time
        for place, click in enumerate(some, first):
            line = _check(state, click, acceptance)
            if isinstance(line, Share):
                checked.accept(line, place)
            else:
                checked.refused[place] = line
        first += len(some)
    return checked


def _check_together(
    state: HandlerState, clicks: Sequence[bytes | Click | Refused], acceptance: Acceptance
) -> tuple[Share | None, Sequence[bytes | Click | Refused]]:
    """All of them when there is nothing to refuse and none has a key or a time of its own, else None; and as far as read."""
    bytes_max = state.body_bytes_max
    bodies = [click for click in clicks if isinstance(click, bytes)]
    is_fine = len(bodies) == len(clicks) and max(map(len, bodies)) <= bytes_max
    short_urls = plain_urls(bodies) if is_fine else None
    if short_urls is None:
        clicks = [_read(click, bytes_max) for click in clicks]
        ordinary = [c for c in clicks if isinstance(c, Click) and c.clicked_at is None and c.idempotency_key is None]
        if len(ordinary) == len(clicks):
            short_urls, bodies = [click.short_url for click in ordinary], [click.raw for click in ordinary]
    return None if short_urls is None else acceptance.accept_all(short_urls, bodies), clicks


def _check(state: HandlerState, unread: bytes | Click | Refused, acceptance: Acceptance) -> Share | RefusedLine:
    """Check one click by itself."""
    click = _read(unread, state.body_bytes_max)
    if isinstance(click, Refused):
        return RefusedLine(click.refusal, state.answers.body(click.refusal, click.detail))
    line = acceptance.judge(click, click.idempotency_key)
    return line if isinstance(line, Share) else RefusedLine(line, state.answers.body(line))


def _read(click: bytes | Click | Refused, bytes_max: int) -> Click | Refused:
    """Read a click and judge its size and key; one that was read stays what it is."""
    if isinstance(click, bytes):
        click = (
            Refused(Refusal.LINE_TOO_LARGE, too_large("click", bytes_max))
            if len(click) > bytes_max
            else parse_line(click)
        )
    if isinstance(click, Refused):
        return click
    if len(click.raw) > bytes_max:
        return Refused(Refusal.LINE_TOO_LARGE, too_large("click", bytes_max))
    key = click.idempotency_key
    if key is None or is_idempotency_key(key):
        return click
    return Refused(Refusal.IDEMPOTENCY_KEY, 'The field "idempotency-key" must be 1 to 128 visible ASCII characters.')
