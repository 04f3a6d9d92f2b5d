"""Latency histogram with bounded memory and a bounded relative error.

Rule: recording never allocates, whatever the value; percentiles are upper bounds, at most 1/64 (1.6 %) too high.
"""

from __future__ import annotations

_LINEAR_BITS = 7  # values below 128 us are kept exactly; above, 64 buckets per doubling: 1/64 relative error
_HALF = 1 << (_LINEAR_BITS - 1)
_VALUE_BITS_MAX = 36  # 2**36 us = 19 hours; anything longer is counted there
_VALUE_MAX = (1 << _VALUE_BITS_MAX) - 1
_SIZE = (_VALUE_BITS_MAX - _LINEAR_BITS + 2) * _HALF


class Histogram:
    """Counts of values in microseconds."""

    __slots__ = ("_counts", "count", "max_us")

    def __init__(self) -> None:
        """Start empty."""
        self._counts = [0] * _SIZE
        self.count = 0
        self.max_us = 0

    def record(self, value_us: int) -> None:
        """Count one value; negative ones count as 0, ones over 19 hours as 19 hours."""
        value = min(max(value_us, 0), _VALUE_MAX)
        shift = max(0, value.bit_length() - _LINEAR_BITS)
        self._counts[shift * _HALF + (value >> shift)] += 1
        self.count += 1
        self.max_us = max(self.max_us, value)

    def percentile_us(self, percent: float) -> int:
        """Return the smallest bucket bound that at least `percent` % of the values do not exceed (0 when empty)."""
        if not self.count:
            return 0
        rank = max(1, -(-self.count * percent // 100))
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return min(_upper_bound(index), self.max_us)
        return self.max_us


def _upper_bound(index: int) -> int:
    if index < 2 * _HALF:
        return index
    shift = index // _HALF - 1
    return ((index - shift * _HALF + 1) << shift) - 1
