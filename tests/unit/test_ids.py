"""Transaction-ids are UUIDs that carry their partition."""

from __future__ import annotations

import itertools
import uuid

from hypothesis import given
from hypothesis import strategies as st

from shared.ids import (
    PARTITIONS_MAX,
    RANDOM_BYTES,
    TAILS_AT_ONCE,
    Tails,
    created_at_ms,
    keyed_id,
    partition_of,
    uuid7_head,
    uuid7_with_partition,
)

PARTITIONS = st.integers(0, PARTITIONS_MAX - 1)
RANDOM = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


@given(st.integers(0, 2**48 - 1), PARTITIONS, RANDOM)
def test_a_timed_id_carries_time_and_partition(now_ms: int, partition: int, random: bytes) -> None:
    """A version 7 id gives back exactly the time and the partition it was made with."""
    text = uuid7_with_partition(now_ms, partition, random)
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert (created_at_ms(text), partition_of(text)) == (now_ms, partition)


def test_tails_are_given_once() -> None:
    """Each end of an id comes from random bytes of its own, across what is made ahead, and completes an id."""
    numbers = itertools.count()
    tails = Tails(lambda count: b"".join(next(numbers).to_bytes(8, "big") for _ in range(count // RANDOM_BYTES)))
    taken = [tails.take() for _ in range(2 * TAILS_AT_ONCE)]
    assert sorted(taken) == [b"8000-%012x" % number for number in range(2 * TAILS_AT_ONCE)]
    assert uuid.UUID((uuid7_head(1, 2) + taken[0]).decode()).version == 7


@given(st.lists(st.integers(1, 2 * TAILS_AT_ONCE + 1), max_size=5))
def test_ends_taken_together_are_each_given_once(counts: list[int]) -> None:
    """However many are taken at once, between single ones, none comes twice."""
    numbers = iter(range(1 << 20))
    tails = Tails(lambda count: b"".join(next(numbers).to_bytes(8, "big") for _ in range(count // RANDOM_BYTES)))
    taken = [tail for count in counts for tail in (*tails.take_many(count), tails.take())]
    assert len(taken) == len(set(taken)) == sum(counts) + len(counts)


@given(st.text(min_size=1), st.text(min_size=1), st.integers(1, PARTITIONS_MAX))
def test_a_keyed_id_is_the_same_for_ever(tenant: str, key: str, partitions: int) -> None:
    """A version 8 id depends on tenant, key and the partition count at creation, and on nothing else."""
    text = keyed_id(tenant, key, partitions)
    assert text == keyed_id(tenant, key, partitions)
    parsed = uuid.UUID(text)
    assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)
    assert partition_of(text) < partitions
    assert created_at_ms(text) is None


def test_a_keyed_id_of_today_is_the_one_of_version_one() -> None:
    """The derivation never changes: a key repeated after an upgrade must give the id it gave before."""
    assert keyed_id("acme", "order-1", 6) == "c5bd3f2b-1a8a-8000-8549-a1d48310b1a5"


def test_tenants_do_not_share_keyed_ids() -> None:
    """The same key of another tenant is another click, and so is the same text cut elsewhere."""
    assert keyed_id("a", "key", 6) != keyed_id("b", "key", 6)
    assert keyed_id("ab", "c", 6) != keyed_id("a", "bc", 6)
