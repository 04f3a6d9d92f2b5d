"""Whatever bytes another producer may write into our topics, drawn by Hypothesis: near our records, and far from them.

Left out is what only an intruder would write: an enriched record under a position of ours that is still to come. It
would be stored in its click's place; who may write to `clicks.enriched` is a matter of the broker's access rules.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import orjson
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from shared.events import HEADER_RAW_OFFSET, HEADER_SUSPECT, encode_raw_offset
from tests.support.enriching import raw_value
from tests.support.raw_records import Bytes, now_ms, write

T = TypeVar("T")

MINUTE_MS: Final = 60_000
FAR_OFFSETS: Final = st.integers(1 << 40, (1 << 64) - 1)
"""Raw offsets that no test reaches."""
LARGE: Final = (700_000, 900_000)
"""Bytes of the largest records: more than a row keeps."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
hex_ids = st.uuids().map(str)
timed_ids = st.tuples(st.integers(0, (1 << 48) - 1), st.integers(0, 4095)).map(
    lambda parts: f"{parts[0]:012x}"[:8] + "-" + f"{parts[0]:012x}"[8:] + f"-7{parts[1]:03x}-8000-00000000aaaa"
)
headers = st.lists(
    st.tuples(st.sampled_from([HEADER_SUSPECT, "", "x"]) | st.text(max_size=5), st.binary(max_size=9)), max_size=3
)


@st.composite
def near_raw(draw: st.DrawFn, tenant: str, at_ms: int) -> Bytes:
    """One of our raw records with some fields replaced, some taken out, the click changed, or cut off."""
    record: dict[str, Any] = orjson.loads(raw_value(tenant=tenant, received_at_ms=at_ms))
    record["transaction_id"] = draw(hex_ids | timed_ids)
    names = st.sampled_from(sorted(record))
    for name in draw(st.lists(names, max_size=2)):
        record[name] = draw(json_values)
    for name in draw(st.lists(names, max_size=1)):
        record.pop(name, None)
    if draw(st.booleans()):
        record |= {"suspect": True, "replay_of": draw(st.none() | st.just(["s", 1, 2]) | json_values)}
    if isinstance(record.get("click"), dict):
        record["click"] |= draw(
            st.dictionaries(st.sampled_from(["short-url", "ip-address", "clicked-at"]), json_values)
        )
    value = orjson.dumps(record)
    if draw(st.integers(0, 5)) == 0:
        value = value[: draw(st.integers(0, len(value)))]
    own = record.get("transaction_id")
    key = own.encode() if isinstance(own, str) and draw(st.integers(0, 3)) else draw(st.none() | st.binary(max_size=40))
    return Bytes(key, value, draw(headers))


@st.composite
def any_record(draw: st.DrawFn, at_ms: int) -> Bytes:
    """Any key, value, headers and time that a broker takes."""
    return Bytes(
        draw(st.none() | st.binary(max_size=40) | hex_ids.map(str.encode)),
        draw(st.none() | st.binary(max_size=300) | json_values.map(orjson.dumps)),
        draw(headers),
        draw(st.integers(0, at_ms + 30 * MINUTE_MS)),
    )


@st.composite
def foreign_enriched(draw: st.DrawFn, stream: str, at_ms: int) -> Bytes:
    """Any record, with positions of ours that are stored already, of ours that never come, or of another stream."""
    record = draw(any_record(at_ms))
    offset = draw(st.just(0) | FAR_OFFSETS)
    position = {"v": 1, "stream": draw(st.just(stream) | st.just("another")), "raw_partition": 0, "raw_offset": offset}
    value = draw(st.sampled_from([record.value, orjson.dumps(position), orjson.dumps(position | {"status": 7})]))
    named = [(HEADER_RAW_OFFSET, encode_raw_offset(offset))] if draw(st.booleans()) else []
    others = [(name, text) for name, text in record.headers if name != HEADER_RAW_OFFSET]
    return record._replace(value=value, headers=[*named, *others])


def examples(strategy: st.SearchStrategy[T], count: int, seed_number: int) -> list[T]:
    """So many examples of a strategy, the same for the same seed."""
    found: list[T] = []

    @seed(seed_number)
    @settings(
        max_examples=count, phases=(Phase.generate,), database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(example: T) -> None:
        found.append(example)

    collect()
    return found[:count]


def poison(bootstrap: str, stream: str, tenant: str, *, partitions: int, count: int, seed_number: int) -> int:
    """Write `count` records, half of them raw, among whatever else is written; how many. The topics have their usual names."""
    half, at_ms = count // 2, now_ms()
    raw = examples(near_raw(tenant, at_ms) | any_record(at_ms), half, seed_number)
    raw += [Bytes(None, b"x" * size) for size in LARGE]
    enriched = examples(foreign_enriched(stream, at_ms), half, seed_number)
    for topic, records in (("clicks.raw", raw), ("clicks.enriched", enriched)):
        asyncio.run(write(bootstrap, topic, _spread(records, partitions, seed_number)))
    return len(raw) + len(enriched)


def _spread(records: Sequence[Bytes], partitions: int, seed_number: int) -> list[tuple[int, Bytes]]:
    rng = random.Random(seed_number)
    return [(rng.randrange(partitions), record) for record in records]
