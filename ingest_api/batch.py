"""`POST /v1/clicks`: many clicks in one request, as NDJSON or a JSON array; one result per click, in order.

A bad line refuses itself only. What refuses the whole request: authorization, a used-up throttle, size, type, a body
that cannot be split into clicks, too many of them. Blank lines are no clicks and get no result. The answer is a JSON
array with one result per line of text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from ingest_api.acceptance import Acceptance, Accepted
from ingest_api.answers import RESULTS_APART, RETRY_AFTER, Refusal, accepted_body, all_accepted
from ingest_api.authorize import find_headers
from ingest_api.handler import (
    WANTED,
    HandlerState,
    Headers,
    PendingClick,
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
    too_long,
    without_bom,
)
from shared.http.answer import Answer, Header

BATCH_PATHS: Final[frozenset[bytes]] = frozenset((b"/v1/clicks", b"/v1/clicks/"))


TOGETHER: Final = 25
"""Clicks that are checked together: one that is refused costs its neighbours the short way, and the others of its batch not."""


class RefusedLine(NamedTuple):
    """A click of a batch that was not accepted."""

    refusal: Refusal
    body: bytes
    """Its result: `code` and `description`."""


class Share(NamedTuple):
    """Clicks of a batch, or of a turn, that go to one partition together."""

    partition: int
    clicks: Sequence[Accepted | PendingClick]
    places: Sequence[int]
    """Where each stands in the batch's `clicks`, or in the turn."""

    def halves(self) -> tuple[Share, Share]:
        """The first half and the rest, of at least two clicks."""
        middle = len(self.clicks) // 2
        return (
            Share(self.partition, self.clicks[:middle], self.places[:middle]),
            Share(self.partition, self.clicks[middle:], self.places[middle:]),
        )


class PendingBatch:
    """A batch whose `clicks` must be published before `finish` gives its answer; `clicks` may be empty."""

    def __init__(self, state: HandlerState, lines: Sequence[Accepted | RefusedLine], rate: tuple[Header, ...]) -> None:
        self._answers = state.answers
        self._lines = lines
        self._rate = rate
        self.clicks: list[Accepted] = [line for line in lines if isinstance(line, Accepted)]
        """What to publish, in order."""
        refused = lines if len(lines) > len(self.clicks) else ()
        self.refusals: Counter[Refusal] = Counter(line.refusal for line in refused if isinstance(line, RefusedLine))
        """Refused lines by reason, for counters; complete after `finish`."""

    def shares(self) -> list[Share]:
        """`clicks` by partition, each share in order. There is one, unless clicks bring keys of their own."""
        clicks = self.clicks
        if len({click.partition for click in clicks}) == 1:
            return [Share(clicks[0].partition, clicks, range(len(clicks)))]
        places: dict[int, list[int]] = {}
        for place, click in enumerate(clicks):
            places.setdefault(click.partition, []).append(place)
        return [Share(partition, [clicks[place] for place in mine], mine) for partition, mine in places.items()]

    def finish(self, outcomes: Sequence[Refusal | None]) -> Answer:
        """The answer; `outcomes` has, for each of `clicks` in order, None when durable, else why it may not be.

        When clicks were to be published and none could be, the whole request is a 500, so that a client that only
        looks at the status tries again.
        """
        clicks = self.clicks
        if clicks and outcomes.count(None) == len(clicks) == len(self._lines):
            return Answer(200, b"[%b]" % all_accepted([click.key for click in clicks]), self._rate)
        pending = iter(outcomes)
        results: list[bytes] = []
        failed: Refusal | None = None
        durable = 0
        for line in self._lines:
            if isinstance(line, RefusedLine):
                results.append(line.body)
                continue
            outcome = next(pending)
            if outcome is None:
                durable += 1
                results.append(accepted_body(line.key))
            else:
                failed = outcome
                self.refusals[outcome] += 1
                results.append(self._answers.body(outcome))
        if failed is not None and not durable:
            return self._answers.refuse(failed, "", self._rate)
        headers = (RETRY_AFTER, *self._rate) if failed is not None else self._rate
        return Answer(200, b"[%b]" % RESULTS_APART.join(results), headers)


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
        return state.answers.refuse(Refusal.BODY_TOO_LARGE, "", rate, close=True)
    refused = check_content(found.get(b"content-type", ()), found.get(b"content-encoding", ()), BATCH_TYPE)
    if refused is None and b"idempotency-key" in found:
        refused = Refused(Refusal.IDEMPOTENCY_KEY, 'In a batch each click brings its own field "idempotency-key".')
    clicks = _split(body, state.settings.api_batch_clicks_max) if refused is None else refused
    if isinstance(clicks, Refused):
        return state.answers.refuse(clicks.refusal, clicks.detail, rate)
    taken = state.throttle.take(caller.key_id, caller.rate_limit, len(clicks), now_ms)
    agent = caller_agent(found) if caller.is_agent_source else b""
    acceptance = Acceptance(state, caller, caller.batch_origin, agent, now_ms)
    lines = _check_lines(state, clicks[: taken.granted], acceptance)
    over = RefusedLine(Refusal.THROTTLED, state.answers.body(Refusal.THROTTLED))
    lines.extend([over] * (len(clicks) - taken.granted))
    rate = rate_headers(caller, taken)
    if taken.granted < len(clicks):
        rate = ((b"retry-after", b"%d" % taken.reset_s), *rate)
    return PendingBatch(state, lines, rate)


def _split(body: bytes, clicks_max: int) -> list[bytes] | list[Click | Refused] | Refused:
    """The lines of NDJSON, not yet read, or the items of an array."""
    body = without_bom(body).strip()
    if not body:
        return Refused(Refusal.BODY_EMPTY)
    if body.startswith(b"["):
        return parse_items(body, clicks_max)
    lines = [line for line in map(bytes.strip, body.split(b"\n")) if line]
    return too_long(len(lines), clicks_max) if len(lines) > clicks_max else lines


def _check_lines(
    state: HandlerState, clicks: Sequence[bytes | Click | Refused], acceptance: Acceptance
) -> list[Accepted | RefusedLine]:
    """Check the clicks, some at a time."""
    lines: list[Accepted | RefusedLine] = []
    for first in range(0, len(clicks), TOGETHER):
        lines += _check_some(state, clicks[first : first + TOGETHER], acceptance)
    return lines


def _check_some(
    state: HandlerState, clicks: Sequence[bytes | Click | Refused], acceptance: Acceptance
) -> Sequence[Accepted | RefusedLine]:
    """Check clicks together while there is nothing to refuse and none has a key or a time of its own, else each by itself."""
    bytes_max = state.body_bytes_max
    bodies = [click for click in clicks if isinstance(click, bytes)]
    is_fine = len(bodies) == len(clicks) and max(map(len, bodies)) <= bytes_max
    short_urls = plain_urls(bodies) if is_fine else None
    if short_urls is None:
        clicks = [_read(click, bytes_max) for click in clicks]
        ordinary = [c for c in clicks if isinstance(c, Click) and c.clicked_at is None and c.idempotency_key is None]
        if len(ordinary) == len(clicks):
            short_urls, bodies = [click.short_url for click in ordinary], [click.raw for click in ordinary]
    accepted = None if short_urls is None else acceptance.accept_all(short_urls, bodies)
    return [_check(state, click, acceptance) for click in clicks] if accepted is None else accepted


def _check(state: HandlerState, unread: bytes | Click | Refused, acceptance: Acceptance) -> Accepted | RefusedLine:
    """Check one click by itself."""
    click = _read(unread, state.body_bytes_max)
    if isinstance(click, Refused):
        return RefusedLine(click.refusal, state.answers.body(click.refusal, click.detail))
    line = acceptance.judge(click, click.idempotency_key)
    return line if isinstance(line, Accepted) else RefusedLine(line, state.answers.body(line))


def _read(click: bytes | Click | Refused, bytes_max: int) -> Click | Refused:
    """Read a click and judge its size and key; one that was read stays what it is."""
    if isinstance(click, bytes):
        click = Refused(Refusal.LINE_TOO_LARGE) if len(click) > bytes_max else parse_line(click)
    if isinstance(click, Refused):
        return click
    if len(click.raw) > bytes_max:
        return Refused(Refusal.LINE_TOO_LARGE)
    key = click.idempotency_key
    if key is None or is_idempotency_key(key):
        return click
    return Refused(Refusal.IDEMPOTENCY_KEY, 'The field "idempotency-key" must be 1 to 128 visible ASCII characters.')
