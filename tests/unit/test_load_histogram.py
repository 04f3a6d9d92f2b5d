"""The latency histogram: bounded error at every size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickledger.load.histogram import Histogram


@given(st.lists(st.integers(0, 2**36 - 1), min_size=1, max_size=200), st.sampled_from([1, 50, 90, 99, 100]))
def test_a_percentile_is_never_low_and_at_most_a_64th_high(values: list[int], percent: int) -> None:
    """Every percentile lies between the true one and the true one plus 1/64."""
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    true = sorted(values)[max(1, -(-len(values) * percent // 100)) - 1]
    assert true <= histogram.percentile_us(percent) <= true + true // 64


@pytest.mark.parametrize(("value", "kept"), [(-5, 0), (0, 0), (2**36 - 1, 2**36 - 1), (2**36, 2**36 - 1)])
def test_values_outside_the_range_are_clamped(value: int, kept: int) -> None:
    """A clock that went back or a day-long stall is counted, not lost."""
    histogram = Histogram()
    histogram.record(value)
    assert (histogram.max_us, histogram.count) == (kept, 1)


def test_an_empty_histogram_reports_zero() -> None:
    """No samples, no latency, no error."""
    assert Histogram().percentile_us(99) == 0
