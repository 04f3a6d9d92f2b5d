"""Who has most of what waits for Kafka: under pressure one tenant does not keep the others out.

Nothing is counted while there is room. Only when three quarters of a bound are reached, a sample of what waits is looked
at, now and then; a tenant with more than half of it gets no more until there is room again, so that the last quarter is
the others'. A tenant that is alone has three quarters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

PRESSURE: Final = 0.75
"""Of a bound; from here on the largest tenant waits."""
SAMPLE: Final = 512
"""Clicks looked at, spread over all that wait: half a millisecond. A tenant with a third of them is taken for one with
more than half once in 10^13 times."""
EVERY_S: Final = 0.05
"""Between two looks: 1 % of the process, and only under pressure."""
_TENANT: Final = re.compile(rb'"tenant":("(?:[^"\\]|\\.)*")')
_TENANT_WITHIN_BYTES: Final = 2_048


def tenant_of(value: bytes) -> bytes:
    """The tenant of a raw record as its JSON text; it stands before anything that a caller wrote (shared.events)."""
    match = _TENANT.search(value, 0, _TENANT_WITHIN_BYTES)
    return match[1] if match else b""


def largest(waiting: Sequence[Sequence[bytes]]) -> bytes | None:
    """The tenant of more than half of the raw records, None when there is none. Looks at `SAMPLE` of them at most."""
    total = sum(map(len, waiting))
    step = max(1, -(-total // SAMPLE))
    looked_at: list[bytes] = []
    skip = 0
    for values in waiting:
        count = len(values)
        if skip >= count:  # nearly all, where shares are of one click
            skip -= count
            continue
        looked_at += map(tenant_of, values[skip::step])
        skip = (skip - count) % step
    counted = Counter(looked_at).most_common(1)
    if not counted or not counted[0][0] or counted[0][1] * 2 <= len(looked_at):
        return None
    return counted[0][0]
