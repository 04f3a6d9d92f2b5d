"""The last checks of a request's clicks, link and retention, and the raw records of those that are accepted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ingest_api.answers import Refusal
from ingest_api.normalise import canonical_keys
from ingest_api.parse import Click
from ingest_api.resolve import FoundLink, find_link, judge_clicked_at, judge_link
from ingest_api.share import Share
from shared.events import join_raw, join_raws, raw_middle
from shared.ids import keyed_id, partition_of, uuid7_head
from shared.stored_links import records_in_time

if TYPE_CHECKING:
    from ingest_api.authorize import Caller
    from ingest_api.handler import HandlerState

ALONE: Final = range(1)
"""The place of a click that is judged by itself."""


class Acceptance:
    """The last checks of a request's clicks, link and retention, then their raw records; what they share is made once.

    Clicks without key all go to one partition, so that a batch is few batches there.
    """

    __slots__ = (
        "_agent",
        "_caller",
        "_head",
        "_links",
        "_now_ms",
        "_origin",
        "_partition",
        "_partitions_at_creation",
        "_state",
    )

    def __init__(self, state: HandlerState, caller: Caller, origin: bytes, agent: bytes, now_ms: int) -> None:
        """`origin` is the caller's for this kind of request; `agent` is empty or a JSON string."""
        self._state = state
        self._caller = caller
        self._origin = origin
        self._agent = agent
        self._now_ms = now_ms
        self._partition = state.next_partition()
        self._head = uuid7_head(now_ms, self._partition)
        self._partitions_at_creation: int | None = None
        self._links: dict[str, tuple[FoundLink | Refusal, Refusal | None]] = {}

    def judge(self, click: Click, idempotency_key: str | None) -> Share | Refusal:
        """Check one click: what to publish, or why not."""
        link, refusal = self._links.get(click.short_url) or self._find(click.short_url)
        if not isinstance(link, FoundLink):
            return link
        ignored = suspect = False
        if click.clicked_at is not None:
            refusal, ignored = self._judge_late(link, click.clicked_at)
        if refusal is not None:
            return refusal
        state, now_ms = self._state, self._now_ms
        if idempotency_key is None:
            partition, key = self._partition, self._head + state.tails.take()
        else:
            keyed = self._keyed(idempotency_key)
            if isinstance(keyed, Refusal):
                return keyed
            partition, key = keyed
            suspect = True
        middle = raw_middle(now_ms, self._origin, state.catalog.version, suspect, ignored, self._agent)
        value = join_raw(key, middle, link.raw, click.raw)
        share = (partition, now_ms, suspect, (key,), (value,), ALONE)
        return tuple.__new__(Share, share)  # cheaper than calling the class

    def accept_all(self, short_urls: Sequence[str], bodies: Sequence[bytes]) -> Share | None:
        """What to publish of clicks with nothing but texts, when `judge` accepts all; None when each is to be judged.

        Each `body` has the `short_url` of its place, neither key nor `clicked-at`.
        """
        state, caller, now_ms = self._state, self._caller, self._now_ms
        keys = canonical_keys(short_urls)
        stored = None if keys is None else state.catalog.exact_links(keys)
        links = None if stored is None else records_in_time(stored, caller.tenant, now_ms, caller.retention_ms)
        if links is None:
            return None
        head = self._head
        middle = raw_middle(now_ms, self._origin, state.catalog.version, False, False, self._agent)  # noqa: FBT003
        ids = [head + tail for tail in state.tails.take_many(len(bodies))]
        values = join_raws(ids, middle, links, bodies)
        return Share(self._partition, now_ms, suspect=False, keys=ids, values=values, places=range(len(ids)))

    def _find(self, short_url: str) -> tuple[FoundLink | Refusal, Refusal | None]:
        """The link, and why a click on it without `clicked-at` would not be recorded; remembered for this request."""
        link = find_link(self._state.catalog, self._caller.tenant, short_url)
        refusal = None if isinstance(link, Refusal) else judge_link(link.terms, self._now_ms, self._caller.retention_ms)
        self._links[short_url] = link, refusal
        return link, refusal

    def _judge_late(self, link: FoundLink, value: str | float) -> tuple[Refusal | None, bool]:
        """Why a click with this `clicked-at` is not recorded, and whether the value was ignored."""
        retention_ms = self._caller.retention_ms
        clicked_at, ignored = judge_clicked_at(
            value, now_ms=self._now_ms, retention_ms=retention_ms, ahead_ms_max=self._state.ahead_ms_max
        )
        return judge_link(link.terms, clicked_at, retention_ms), ignored

    def _keyed(self, idempotency_key: str) -> tuple[int, bytes] | Refusal:
        """Partition and transaction-id of a click with a key."""
        if self._partitions_at_creation is None:
            stream = self._state.catalog.stream(self._state.topic_raw)
            if stream is None:
                return Refusal.CATALOG_NOT_READY
            self._partitions_at_creation = stream["partitions_at_creation"]
        transaction_id = keyed_id(self._caller.tenant, idempotency_key, self._partitions_at_creation)
        return partition_of(transaction_id), transaction_id.encode()
