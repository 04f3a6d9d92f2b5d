"""Group commit: clicks that arrive together become durable together, and only then are they answered.

Theory of operation. A click joins the open group of its partition. Groups are looked at when the event loop has read
all sockets that were ready (`call_soon`), so clicks of one moment share a group: while fewer than `in_flight` groups are
under way every open group leaves at once; otherwise a group waits for an acknowledgement or for `group_ms`, whichever
comes first. After an acknowledgement the loop goes round once more and reads what those who were just answered have sent by then.
A partition never has two groups under way. Clicks without a key all go to one partition for a while (`next_partition`), a
few of them also while its batch is under way: what follows, to the row in the table, is then done for one partition at a
time instead of for a few clicks of each (docs/adr/0037). Only what is too much for one batch at a time, or has waited for
a slow one, goes to the next free partition.

What waits is bounded in clicks, bytes and time; beyond a bound a click is refused before anything was promised. The time
is that of the partition's oldest click whose group has not left: while it is over its bound every further click would wait
at least as long, so it is told at once instead of being kept (docs/adr/0017). From three quarters of a bound on, the
tenant that has most of what waits is refused, and the rest is the others' (ingest_api/largest_tenant.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from ingest_api.answers import Refusal
from ingest_api.largest_tenant import EVERY_S, PRESSURE, largest, tenant_of
from ingest_api.share import Share
from ingest_api.waits import Waits
from shared.errors import DataError, OperatorError, OutcomeUnknown, TransientError

log = logging.getLogger(__name__)

RECORD_OVERHEAD_BYTES: Final = 128
"""Upper bound of what Kafka adds to a record's value: key, header, varints (about 90)."""
STAY_S: Final = 0.4
"""How long clicks without a key go to the same partition: less than the age of a block, which is what is made of them in the
end, so that the last ones are there when it is cut."""
STAY_CLICKS: Final = 1_000
"""The same in clicks: of a fast stream each partition has its share all the time."""
WAITING_CLICKS: Final = 64
"""As many clicks without a key wait for the batch under way of that partition; with more, the next one takes them."""
WAITING_S: Final = 0.02
"""How long the first of them waits before further ones go elsewhere: some acknowledgements' time, unless one is slow."""

LOOK_S_MIN: Final = 0.001
"""Between two looks at groups that wait for their own partition."""
CLOCK_S: Final = 0.0001
"""By so little the loop's timers may be early by its own clock: a rounding."""

Told = Callable[[Exception | None], None]
"""Hears once, and never before the call that it was given to has returned, why clicks are not durable, or not known to be; None
when they are."""

Settle = Callable[[Any, Share, Refusal | None], None]
"""Told once for each share, with who submitted it: None when it is durable, else why it is not, or not known to be."""


class Destination(Protocol):
    """A place where clicks become durable: Kafka, and the spool beside it."""

    def append(self, partition: int, shares: Sequence[Share], told: Told) -> None:
        """Begin to make all of them durable; `told` hears of it within a bounded time.

        Of OutcomeUnknown when they may or may not be; of TransientError, OperatorError, DataError when none is.
        """

    def why_not_ready(self) -> str:
        """Why it takes nothing now; empty when it does."""


class _Group:
    """Clicks of one partition that travel together."""

    __slots__ = ("bytes", "clicks", "partition", "shares", "since", "waiting")

    def __init__(self, partition: int, now: float) -> None:
        self.partition = partition
        self.since = now
        self.shares: list[Share] = []
        self.waiting: list[tuple[Settle, Any]] = []
        """Who is told of each."""
        self.clicks = 0
        self.bytes = 0


class GroupCommit:
    """The only way from an accepted click to a durable one. One per process; all calls on its event loop."""

    def __init__(
        self,
        destination: Destination,
        *,
        partitions: Callable[[], int],
        group_bytes_max: int,
        pending_bytes_max: int,
        pending_clicks_max: int,
        wait_ms_max: int = 2_000,
        group_ms: int = 3,
        in_flight: int = 1,
    ) -> None:
        """`partitions()`: how many the topic has now, 0 while unknown. Bytes are those of the records."""
        self._loop = asyncio.get_running_loop()
        self._destination = destination
        self._partitions = partitions
        self._group_bytes_max = group_bytes_max
        self._pending_bytes_max = pending_bytes_max
        self._pending_clicks_max = pending_clicks_max
        self._wait_s_max = wait_ms_max / 1000
        self._late: frozenset[int] = frozenset()
        """Partitions whose oldest open group has waited too long."""
        self._clicks_shared = int(PRESSURE * pending_clicks_max)
        self._bytes_shared = int(PRESSURE * pending_bytes_max)
        self._is_slow = False
        """The oldest open group has waited for three quarters of its bound."""
        self._largest: bytes | None = None
        """The tenant with most of what waits, when that was last looked at."""
        self._looked_at = float("-inf")
        self._group_s = group_ms / 1000
        self._in_flight = in_flight
        self._open: list[_Group] = []  # oldest first
        self._filling: dict[int, _Group] = {}
        self._under_way: set[int] = set()
        """Partitions."""
        self._current = -1
        """Where clicks without a key go now; -1 after that group has left, until the next click comes."""
        self._home = -1
        """Where they go while it takes them."""
        self._home_until = 0.0
        self._home_clicks = 0
        self._scheduled = False
        self._before_look: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.pending_clicks = 0
        self.pending_bytes = 0
        self.batches = 0
        """Groups that left; a counter for metrics."""
        self.clicks = 0
        """Clicks that became durable; a counter for metrics."""
        self.waits = Waits()

    def why_not_ready(self) -> str:
        """Why no click can be made durable now; empty when it can."""
        if self._partitions() <= 0:
            return "the topic's stream is not in the catalog: run `clickledger setup`"
        return self._destination.why_not_ready()

    def next_partition(self) -> int:
        """The partition for a click without a key: the same one for a while, unless too many wait there."""
        current = self._current
        if current < 0 or current >= self._partitions() or not self._takes(current):
            self._choose_partition()  # none yet, or too much there, or the topic was made anew with fewer
        return self._current

    def _takes(self, partition: int) -> bool:
        """Whether a click without a key goes there: it is free, or few wait for its batch under way and not for long."""
        if partition not in self._under_way:
            return True
        group = self._filling.get(partition)
        if group is None:
            return True
        return group.clicks < WAITING_CLICKS and self._loop.time() - group.since < WAITING_S

    def _choose_partition(self) -> None:
        """The one where clicks stay for now, else the first one after it without a group under way."""
        count = max(1, self._partitions())
        now = self._loop.time()
        if now >= self._home_until or self._home_clicks >= STAY_CLICKS:
            self._home = (self._home + 1) % count
            self._home_until, self._home_clicks = now + STAY_S, 0
        self._current = self._home % count
        if not self._takes(self._current):
            following = ((self._home + step) % count for step in range(1, count))
            self._current = next((p for p in following if p not in self._under_way), self._current)

    def submit(self, share: Share, settle: Settle, who: Any) -> Refusal | None:
        """Take all clicks of a share into one group and call `settle` later with `who` and the share, or refuse all now.

        OVERLOADED says that they do not fit, into a group or into what may wait: a smaller share may.
        """
        partition, values = share.partition, share.values
        clicks = len(values)
        size = sum(map(len, values)) + RECORD_OVERHEAD_BYTES * clicks
        if size > self._group_bytes_max and clicks > 1:
            return Refusal.OVERLOADED
        refusal = self._refusal(partition, clicks, size)
        if refusal is not None:
            return refusal
        if (
            self.pending_clicks >= self._clicks_shared or self.pending_bytes >= self._bytes_shared or self._is_slow
        ) and self._is_largest(tenant_of(values[0])):
            return Refusal.TENANT_SHARE
        group = self._filling.get(partition)
        if group is None or group.bytes + size > self._group_bytes_max:
            now = self._loop.time()
            group = self._filling[partition] = _Group(partition, now)
            self._open.append(group)
        group.shares.append(share)
        group.waiting.append((settle, who))
        group.clicks += clicks
        group.bytes += size
        self.pending_clicks += clicks
        self.pending_bytes += size
        self._look_soon()
        return None

    def at_turn_end(self, call: Callable[[], None]) -> None:
        """Call this, which may submit but not call this again, when the loop has read all sockets that are ready; `drain` waits for it."""
        self._before_look.append(call)
        self._look_soon()

    def _look_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._idle.clear()
            self._loop.call_soon(self._look)

    async def drain(self) -> None:
        """Refuse new clicks and wait until every one taken is settled; its appends are bounded, so this is too."""
        self._stopping = True
        await self._idle.wait()

    def _refusal(self, partition: int, clicks: int, size: int) -> Refusal | None:
        if self._stopping:
            return Refusal.STOPPING
        if partition >= self._partitions():
            return Refusal.CATALOG_NOT_READY
        if self._destination.why_not_ready():
            return Refusal.NOT_DURABLE
        if self.pending_clicks + clicks > self._pending_clicks_max:
            return Refusal.OVERLOADED
        if self.pending_bytes + size > self._pending_bytes_max:
            return Refusal.OVERLOADED
        if partition in self._late:
            return Refusal.WAIT_TOO_LONG
        return None

    def _look(self) -> None:
        """Send what may go at once; see that the rest is looked at again."""
        calls, self._before_look = self._before_look, []
        for call in calls:
            try:
                call()
            except Exception:  # a bug in one turn must not keep back all clicks that follow
                log.exception("unhandled error at the end of a turn")
        self._scheduled = False
        self._send_open()
        if self._open and self._timer is None:
            self._timer = self._loop.call_at(self._next_look(), self._tick)
        if not self.pending_clicks:
            self._idle.set()

    def _next_look(self) -> float:
        """When the oldest open group whose partition is free has waited long enough; without one, how long all wait is looked at."""
        free = (group.since for group in self._open if group.partition not in self._under_way)
        return next(free, self._loop.time()) + max(self._group_s, LOOK_S_MIN)

    def _tick(self) -> None:
        """What has waited for `group_ms` goes, wherever its partition is free."""
        self._timer = None
        self._look()

    def _send_open(self) -> None:
        """Send what may go: one after the other what fits into flight, and what has waited long enough."""
        waiting, under_way = [], self._under_way
        until = self._loop.time() - self._group_s + CLOCK_S
        for group in self._open:
            if (len(under_way) < self._in_flight or group.since <= until) and group.partition not in under_way:
                self._send(group)
            else:
                waiting.append(group)
        self._open = waiting
        if waiting or self._late or self._is_slow:
            since_min = self._loop.time() - self._wait_s_max
            self._late = frozenset(group.partition for group in waiting if group.since < since_min)
            self._is_slow = bool(waiting) and waiting[0].since < since_min + (1 - PRESSURE) * self._wait_s_max

    def _is_largest(self, tenant: bytes) -> bool:
        """Whether the tenant has most of what waits, looked at now and then."""
        now = self._loop.time()
        if now - self._looked_at >= EVERY_S:
            self._looked_at = now
            self._largest = largest([share.values for group in self._open for share in group.shares])
        return tenant == self._largest

    def _send(self, group: _Group) -> None:
        if self._filling.get(group.partition) is group:
            del self._filling[group.partition]
        if group.partition == self._current:
            self._current = -1
        self._home_clicks += group.clicks
        self.batches += 1
        self._under_way.add(group.partition)
        told = partial(self._appended, group)
        try:
            self._destination.append(group.partition, group.shares, told)
        except Exception as exc:  # noqa: BLE001  # those who wait must hear of a bug, see `_why`
            self._loop.call_soon(told, exc)

    def _appended(self, group: _Group, error: Exception | None) -> None:
        """What has become of a group; what waits may go now."""
        self._under_way.remove(group.partition)
        self.pending_clicks -= group.clicks
        self.pending_bytes -= group.bytes
        self.waits.add(self._loop.time() - group.since, group.clicks)
        refusal = None if error is None else _why(group, error)
        if refusal is None:
            self.clicks += group.clicks
        for share, (settle, who) in zip(group.shares, group.waiting, strict=True):
            try:
                settle(who, share, refusal)
            except Exception:  # one connection's bug must not keep the others' answers back
                log.exception("unhandled error while answering a click")
        self._look_soon()


def _why(group: _Group, error: Exception) -> Refusal:
    """What those who wait are told instead of a success."""
    if isinstance(error, OutcomeUnknown):
        log.warning("outcome unknown for %d clicks: %s", group.clicks, error)
        return Refusal.OUTCOME_UNKNOWN
    if isinstance(error, TransientError | OperatorError):
        log.warning("%d clicks not stored: %s", group.clicks, error)
        return Refusal.NOT_DURABLE
    if isinstance(error, DataError):
        log.error("%d clicks cannot be stored", group.clicks, exc_info=error)
        return Refusal.INTERNAL_ERROR
    # A bug, which must not be taken for a success.
    log.error("unhandled error while storing %d clicks", group.clicks, exc_info=error)
    return Refusal.OUTCOME_UNKNOWN
