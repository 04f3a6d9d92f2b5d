"""The hot paths, for the fast lane and for ASGI alike: core functions, group commit, counting.

`take` serves the parser's callbacks; `answer` is the same for anyone with a request in hand. Clock and sockets end here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ingest_api.answers import Answers, Refusal
from ingest_api.batch import BATCH_PATHS, PendingBatch, handle_batch
from ingest_api.handler import (
    PATHS,
    HandlerState,
    JudgedHead,
    PendingClick,
    PendingTurn,
    accept_together,
    handle,
    judge_body,
    judge_head,
    judge_taken,
    precheck,
    refuse_oversized,
    refuse_unpublished,
)
from ingest_api.metrics import Tallies
from ingest_api.publish import GroupCommit, Settle
from ingest_api.share import Share
from ingest_api.throttle import Taken
from ingest_api.turns import Alike, Turn
from shared.http.answer import AlikeAnswers, Answer, Header
from shared.http.exchange import Exchange, reply_alike
from shared.http.lane import Endpoints, LaneLimits, Refusals
from shared.settings import ApiSettings

log = logging.getLogger(__name__)

Reply = Callable[[Answer], None]


def clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class HotPath(Protocol):
    """A hot path that is independent of the fast lane."""

    body_bytes_max: int

    def precheck(self, method: bytes, headers: Sequence[Header], peer: str) -> Answer | None:
        """Refuse from the header alone."""

    def oversized(self, method: bytes, headers: Sequence[Header], peer: str) -> Answer:
        """Refuse a body that has passed `body_bytes_max`."""

    def answer(
        self, method: bytes, target: bytes, headers: Sequence[Header], body: bytes, peer: str, reply: Reply
    ) -> Answer | None:
        """The answer, or None and `reply` is called with it, now or later."""


class _Path(ABC):
    """What both hot paths do alike."""

    def __init__(self, state: HandlerState, commit: GroupCommit, tallies: Tallies, body_bytes_max: int) -> None:
        self._state = state
        self._commit = commit
        self._tallies = tallies
        self.body_bytes_max = body_bytes_max

    def precheck(self, method: bytes, headers: Sequence[Header], peer: str) -> Answer | None:
        """Refuse from the header alone; counted when it does."""
        answer = precheck(self._state, method, headers, peer, clock_ms(), body_bytes_max=self.body_bytes_max)
        return None if answer is None else self._tallies.answer(answer)

    def oversized(self, method: bytes, headers: Sequence[Header], peer: str) -> Answer:
        """Refuse a body that has passed `body_bytes_max`."""
        return self._tallies.answer(
            refuse_oversized(self._state, method, headers, peer, clock_ms(), body_bytes_max=self.body_bytes_max)
        )

    def take(self, exchange: Exchange) -> Answer | None:
        """See `Endpoint`."""
        body, peer = bytes(exchange.body), exchange.connection.peer
        return self.answer(exchange.method, exchange.target, exchange.headers, body, peer, exchange.reply)

    def _publish(self, share: Share, settle: Settle, who: object) -> Sequence[tuple[Share, Refusal]]:
        """Have a share published; when it does not fit, what fits of its halves, down to single clicks.

        Returns what is refused; `settle` hears of the rest.
        """
        refusal = self._commit.submit(share, settle, who)
        if refusal is None:
            return ()
        if refusal is Refusal.OVERLOADED and len(share.keys) > 1:
            return [refused for half in share.halves() for refused in self._publish(half, settle, who)]
        return [(share, refusal)]

    @abstractmethod
    def answer(
        self, method: bytes, target: bytes, headers: Sequence[Header], body: bytes, peer: str, reply: Reply
    ) -> Answer | None:
        """See `HotPath`."""


class _Asking(NamedTuple):
    """Who waits for a click to become durable, and the answer to give when it is."""

    answer: Answer
    reply: Reply


class _AskingTurn(NamedTuple):
    """Who waits for the clicks of a turn to become durable, by place, and the answers to give when they are."""

    answers: AlikeAnswers
    exchanges: Sequence[Exchange]


class ClickPath(_Path):
    """One click a request."""

    def __init__(self, state: HandlerState, commit: GroupCommit, tallies: Tallies, body_bytes_max: int) -> None:
        super().__init__(state, commit, tallies, body_bytes_max)
        self._turn = Turn(self._judge)

    def answer(
        self, method: bytes, target: bytes, headers: Sequence[Header], body: bytes, peer: str, reply: Reply
    ) -> Answer | None:
        """See `HotPath`."""
        return self._submit(handle(self._state, method, target, headers, body, peer, clock_ms()), reply)

    def take(self, exchange: Exchange) -> Answer | None:
        """See `Endpoint`. What a head says that came before on this connection is kept with it, if it says so each time."""
        known = exchange.head
        alike = None if known is None else known.memo
        if not isinstance(alike, Alike):
            head = self._judge_head(exchange, clock_ms())
            if isinstance(head, Answer):
                return self._tallies.answer(head)
            alike = self._turn.alike(head)
            if known is not None and head.fields.isdisjoint(known.varying):
                known.memo = alike
        if self._turn.add(exchange, alike):
            self._commit.at_turn_end(self._turn.end)
        return None

    def _judge_head(self, exchange: Exchange, now_ms: int) -> JudgedHead | Answer:
        method, target, peer = exchange.method, exchange.target, exchange.connection.peer
        return judge_head(self._state, method, target, exchange.headers, peer, now_ms)

    def _judge(self, head: JudgedHead, exchanges: Sequence[Exchange]) -> None:
        """Judge clicks with this head: together while there is nothing to refuse, else each by itself."""
        state, now_ms = self._state, clock_ms()
        if len(exchanges) == 1 or not head.is_plain or not head.holds(state.catalog, now_ms):
            for exchange in exchanges:
                self._judge_alone(head, exchange, None, now_ms)
            return
        caller, bodies = head.caller, [bytes(exchange.body) for exchange in exchanges]
        taken, clicks = None, None
        try:
            taken = state.throttle.take(caller.key_id, caller.rate_limit, len(exchanges), now_ms)
            clicks = accept_together(state, head, taken, bodies, now_ms)
        except Exception:  # one request's bug must not be answered to its neighbours
            log.exception("unhandled error while judging %d clicks together", len(exchanges))
        if clicks is not None:
            self._submit_turn(clicks, exchanges)
            return
        each = [None] * len(exchanges) if taken is None else taken.each(len(exchanges))
        for exchange, one in zip(exchanges, each, strict=True):
            self._judge_alone(head, exchange, one, now_ms)

    def _judge_alone(self, head: JudgedHead, exchange: Exchange, taken: Taken | None, now_ms: int) -> None:
        """Judge one click; `taken` None: nothing was taken from the throttle yet."""
        try:
            answer = self._submit(self._judged(head, exchange, taken, now_ms), exchange.reply)
        except Exception:  # the process's edge: one request's bug must be answered, not spread
            log.exception("unhandled error while judging a click")
            answer = self._tallies.answer(self._state.answers.refuse(Refusal.INTERNAL_ERROR))
        if answer is not None:
            exchange.reply(answer)

    def _judged(self, head: JudgedHead, exchange: Exchange, taken: Taken | None, now_ms: int) -> Answer | PendingClick:
        body = bytes(exchange.body)
        if taken is not None:
            return judge_taken(self._state, head, taken, body, now_ms)
        if not head.holds(self._state.catalog, now_ms):
            if exchange.head is not None:
                exchange.head.memo = None
            found = self._judge_head(exchange, now_ms)
            if isinstance(found, Answer):
                return found
            head = found
        return judge_body(self._state, head, body, now_ms)

    def _submit(self, result: Answer | PendingClick, reply: Reply) -> Answer | None:
        """Have a click published and answered when that is settled; an answer that is known now comes back."""
        if not isinstance(result, PendingClick):
            return self._tallies.answer(result)
        share, answer = result
        asking = _Asking(answer, reply)
        for _, refusal in self._publish(share, self._settle, asking):
            self._settle(asking, share, refusal)
        return None

    def _settle(self, asking: _Asking, _share: Share, refusal: Refusal | None) -> None:
        answer, reply = asking
        try:
            reply(self._outcome(answer, refusal))
        except Exception:  # it was counted, and nobody is left to hear it
            log.exception("unhandled error while answering a click")

    def _outcome(self, answer: Answer, refusal: Refusal | None) -> Answer:
        """The answer, counted, when the click is durable, else why it is not, or not known to be."""
        if refusal is None:
            self._tallies.accepted += 1
            return answer
        return self._tallies.answer(refuse_unpublished(self._state, answer, refusal))

    def _submit_turn(self, clicks: PendingTurn, exchanges: Sequence[Exchange]) -> None:
        """Have clicks published and each answered when that is settled."""
        share, answers = clicks
        asking = _AskingTurn(answers, exchanges)
        for refused, refusal in self._publish(share, self._settle_turn, asking):
            self._settle_turn(asking, refused, refusal)

    def _settle_turn(self, asking: _AskingTurn, share: Share, refusal: Refusal | None) -> None:
        answers, exchanges = asking
        if refusal is None and len(share.keys) == len(exchanges):
            self._tallies.accepted += len(exchanges)
            reply_alike(exchanges, answers)
            return
        for place in share.places:
            try:
                exchanges[place].reply(self._outcome(answers.at(place), refusal))
            except Exception:  # one connection's bug must not keep the others' answers back
                log.exception("unhandled error while answering a click")


class BatchPath(_Path):
    """Many clicks a request."""

    def answer(
        self,
        method: bytes,
        target: bytes,  # noqa: ARG002 the signature of a hot path
        headers: Sequence[Header],
        body: bytes,
        peer: str,
        reply: Reply,
    ) -> Answer | None:
        """See `HotPath`."""
        result = handle_batch(self._state, headers, body, peer, clock_ms(), method=method)
        if not isinstance(result, PendingBatch):
            return self._tallies.answer(result)
        waiting = _BatchWait(result, self._tallies, reply)
        for share in result.shares:
            waiting.missing += len(share.keys)
            for refused, refusal in self._publish(share, _BatchWait.settle, waiting):
                waiting.missing -= len(refused.keys)
                waiting.note(refused, refusal)
        return None if waiting.missing else waiting.answer()


class _BatchWait:
    """The outcomes of a batch's clicks until the last share is settled.

    Nothing that it holds holds it: else each batch, with its clicks, would stay until the collector comes.
    """

    __slots__ = ("_batch", "_failed", "_reply", "_tallies", "missing")

    def __init__(self, batch: PendingBatch, tallies: Tallies, reply: Reply) -> None:
        self._batch = batch
        self._tallies = tallies
        self._reply = reply
        self._failed: dict[int, Refusal] = {}
        self.missing = 0
        """Clicks under way."""

    def note(self, share: Share, refusal: Refusal) -> None:
        """A share of clicks that are not durable."""
        self._failed.update(dict.fromkeys(share.places, refusal))

    def settle(self, share: Share, refusal: Refusal | None) -> None:
        """A share's outcome; the last one gives the answer."""
        if refusal is not None:
            self.note(share, refusal)
        self.missing -= len(share.keys)
        if not self.missing:
            self._reply(self.answer())

    def answer(self) -> Answer:
        """The batch's answer, counted; when nothing is under way any more."""
        answer = self._batch.finish(self._failed)
        self._tallies.lines(self._batch.clicks - len(self._failed), self._batch.refusals)
        self._tallies.status(answer.status)
        return answer


async def answer_async(
    path: HotPath, method: bytes, target: bytes, headers: Sequence[Header], body: bytes, peer: str
) -> Answer:
    """The answer of a hot path for a caller that can wait."""
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def reply(answer: Answer) -> None:
        if not future.done():
            future.set_result(answer)

    answer = path.answer(method, target, headers, body, peer, reply)
    return await future if answer is None else answer


def hot_paths(clicks: ClickPath, batches: BatchPath) -> Endpoints:
    """Every raw target of the hot paths."""
    return dict.fromkeys(PATHS, clicks) | dict.fromkeys(BATCH_PATHS, batches)


def connection_refusals(answers: Answers, settings: ApiSettings) -> Refusals:
    """What the connection itself answers."""
    head = f"The request line and header fields have more than {settings.api_head_bytes_max:,} bytes."
    late = f"The request did not end within {settings.api_request_timeout_ms / 1000:g} s."
    return Refusals(
        malformed=answers.plain(400, "This is not HTTP/1.1.", close=True),
        head_too_large=answers.plain(400, head, close=True),
        timed_out=answers.plain(408, late, close=True),
        too_many_connections=answers.refuse(Refusal.CONNECTIONS_FULL, close=True),
        too_much_unfinished=answers.refuse(Refusal.UNFINISHED_FULL, close=True),
        bug=answers.refuse(Refusal.INTERNAL_ERROR),
    )


def lane_limits(settings: ApiSettings) -> LaneLimits:
    """The connection's limits as the settings have them."""
    return LaneLimits(
        connections_max=settings.api_connections_max,
        head_bytes_max=settings.api_head_bytes_max,
        pipeline_max=settings.api_pipelined_max,
        keep_alive_s=settings.api_keep_alive_ms / 1000,
        request_s=settings.api_request_timeout_ms / 1000,
        write_stall_s=settings.api_write_stall_ms / 1000,
        linger_s=settings.api_linger_ms / 1000,
        displace_s=settings.api_displace_ms / 1000,
        held_bytes_max=settings.api_held_bytes_max,
        unread_bytes_max=settings.api_unread_bytes_max,
    )
