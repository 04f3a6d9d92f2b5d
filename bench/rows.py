"""What a measurement says: one figure, its spread, what it is compared with, its target and whether that is met.

Pure. A part of the benchmark measures `Figure`s; `judge` makes a `Row` of each by the row's `Spec`, which stands in
targets.py. Rows are JSON lines on their way from a part's process to the main one, and a list in results.json.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple


class Target(NamedTuple):
    """A bound on a row's value, or on its ratio."""

    sign: str
    """`>=` or `<=`"""
    limit: float
    is_ratio: bool = False

    def text(self, unit: str) -> str:
        """As a reader sees it."""
        return f"{self.sign} {self.limit:,g}{'x' if self.is_ratio else f' {unit}'}"

    def is_met(self, value: float, ratio: float | None) -> bool | None:
        """Whether it is met; None when the ratio that it is about is not known."""
        found = ratio if self.is_ratio else value
        if found is None:
            return None
        return found >= self.limit if self.sign == ">=" else found <= self.limit


class Spec(NamedTuple):
    """One row before it is measured."""

    part: str
    name: str
    unit: str
    target: Target | None = None
    ratio_to: str = ""
    """what the ratio is to, in words"""


class Figure(NamedTuple):
    """One measurement, repeated."""

    values: Sequence[float]
    """at least one"""
    base: Sequence[float] = ()
    """of what the ratio is to, from the same run; one for each value when both sides took turns"""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the results. `value` is the median, `low` and `high` are the least and the greatest repetition."""

    part: str
    name: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    ratio_to: str
    ratio: float | None
    target: str
    met: bool | None
    """None: not measured, or there is no target"""
    reason: str
    """why it was not measured, or a note on how"""
    made: str
    """UTC, `YYYY-MM-DD HH:MM`"""
    scale: str
    """`full` or `quick`"""


def judge(spec: Spec, figure: Figure, made: str, scale: str) -> Row:
    """The row of a figure."""
    value = statistics.median(figure.values)
    ratio = _ratio(figure)
    met = spec.target.is_met(value, ratio) if spec.target else None
    low, high = min(figure.values), max(figure.values)
    return _row(spec, made, scale, value=value, low=low, high=high, ratio=ratio, met=met, reason=figure.note)


def _ratio(figure: Figure) -> float | None:
    """Of as many values on both sides the median of the neighbours' ratios, else the ratio of both medians.

    The machine's speed drifts within a run; neighbours had nearly the same.
    """
    if not figure.base or not all(figure.base):
        return None
    if len(figure.values) == len(figure.base):
        return statistics.median(value / base for value, base in zip(figure.values, figure.base, strict=True))
    return statistics.median(figure.values) / statistics.median(figure.base)


def unmeasured(spec: Spec, reason: str, made: str, scale: str) -> Row:
    """The row of a figure that there is none of."""
    return _row(spec, made, scale, reason=reason)


def _row(
    spec: Spec,
    made: str,
    scale: str,
    *,
    reason: str,
    value: float | None = None,
    low: float | None = None,
    high: float | None = None,
    ratio: float | None = None,
    met: bool | None = None,
) -> Row:
    target = spec.target.text(spec.unit) if spec.target else ""
    return Row(
        part=spec.part,
        name=spec.name,
        value=_short(value),
        low=_short(low),
        high=_short(high),
        unit=spec.unit,
        ratio_to=spec.ratio_to,
        ratio=_short(ratio),
        target=target,
        met=met,
        reason=reason,
        made=made,
        scale=scale,
    )


def _short(value: float | None) -> float | None:
    """Five digits that count: no figure here is known better."""
    return None if value is None else float(f"{value:.5g}")


def encode(row: Row) -> str:
    """One line of JSON."""
    return json.dumps(asdict(row), ensure_ascii=False)


def decode(record: dict[str, Any]) -> Row:
    """The row of one JSON object. Raises TypeError for another shape."""
    return Row(**{field.name: record[field.name] for field in fields(Row)})


def merge(before: Iterable[Row], now: Iterable[Row], specs: Sequence[Spec]) -> list[Row]:
    """Rows in the order of the specifications: the new ones, and the former of parts that were not run now.

    Rows that have no specification any more are dropped.
    """
    found = {(row.part, row.name): row for row in before}
    for row in now:
        found[row.part, row.name] = row
    return [found[spec.part, spec.name] for spec in specs if (spec.part, spec.name) in found]


def missed(rows: Iterable[Row]) -> list[Row]:
    """Rows whose target is not met."""
    return [row for row in rows if row.met is False]
