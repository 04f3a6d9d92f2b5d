"""Batches of records: many appended at once are what each by itself would be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.kafka.batch import RecordBatch

HEADERS = [("suspect", b"1")]
RUNS = st.lists(
    st.tuples(st.integers(0, 1 << 41), st.booleans(), st.lists(st.binary(max_size=200), min_size=1, max_size=70)),
    min_size=1,
    max_size=4,
)


@given(RUNS)
def test_extended_as_appended(runs: list[tuple[int, bool, list[bytes]]]) -> None:
    """The bytes, the count and the size are the same."""
    many, one_by_one = RecordBatch(1 << 20, "none"), RecordBatch(1 << 20, "none")
    for timestamp, has_headers, values in runs:
        keys, headers = [value[:36] for value in values], HEADERS if has_headers else []
        assert many.extend(timestamp=timestamp, keys=keys, values=values, headers=headers)
        for key, value in zip(keys, values, strict=True):
            assert one_by_one.append(timestamp=timestamp, key=key, value=value, headers=headers) is not None
    assert (many.record_count(), many.size()) == (one_by_one.record_count(), one_by_one.size())
    assert many.build(7, 1, 3) == one_by_one.build(7, 1, 3)


def test_a_full_batch_says_so() -> None:
    """What does not fit to the last record is told; a first record of any size fits."""
    assert RecordBatch(100, "none").extend(timestamp=1, keys=[b"k"], values=[b"v" * 200])
    assert not RecordBatch(350, "none").extend(timestamp=1, keys=[b"k"] * 3, values=[b"v" * 100] * 3)
    assert RecordBatch(1_000, "none").extend(timestamp=1, keys=[b"k"] * 3, values=[b"v" * 100] * 3)
