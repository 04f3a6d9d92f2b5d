"""How rows are shown: lines on the way, tables in RESULTS.md, a list in results.json. Pure but for `save` and `load`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.rows import Row, decode, missed

_WORDS = {True: "yes", False: "**no**", None: ""}


def number(value: float | None) -> str:
    """Thousands with commas, small numbers with three digits that count; a dash for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def spread(row: Row) -> str:
    """The least and the greatest repetition; empty when there was one only."""
    return "" if row.low == row.high else f"{number(row.low)} - {number(row.high)}"


def ratio(row: Row) -> str:
    """The ratio and what it is to."""
    return "" if row.ratio is None else f"{row.ratio:.3g}x {row.ratio_to}"


def line_of(row: Row) -> str:
    """One row for a terminal."""
    if row.value is None:
        return f"  {row.name}: not measured ({row.reason})"
    parts = [f"{number(row.value)} {row.unit}"]
    parts += [f"({spread(row)})"] if spread(row) else []
    parts += [ratio(row)] if ratio(row) else []
    parts += (
        [f"target {row.target}: {'met' if row.met else 'NOT met' if row.met is False else '?'}"] if row.target else []
    )
    return f"  {row.name}: {', '.join(parts)}{f'; {row.reason}' if row.reason else ''}"


def page(header: Sequence[str], titles: Mapping[str, str], rows: Sequence[Row]) -> str:
    """The text of RESULTS.md."""
    sections = []
    for part, title in titles.items():
        some = [row for row in rows if row.part == part]
        if some:
            made = sorted({f"{row.made} UTC, {row.scale} scale" for row in some})
            sections.append(f"## {title}\n\nMade {made[-1]}.\n\n{_table(some)}\n")
    facts = "\n".join(f"- {line}" for line in header)
    total = [row for row in rows if row.target]
    counts = f"{sum(row.met is True for row in total)} of {len(total)} targets met"
    losers = missed(rows)
    last = _table(losers) if losers else "None."
    text = "\n".join(sections)
    return f"# Figures\n\nHow to read them: [README.md](README.md).\n\n{facts}\n- {counts}\n\n{text}\n## Targets not met\n\n{last}\n"


def _table(rows: Sequence[Row]) -> str:
    lines = ["| what | median | min - max | ratio | target | met | note |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        value = f"{number(row.value)} {row.unit}" if row.value is not None else "not measured"
        cells = (row.name, value, spread(row), ratio(row), row.target, _WORDS[row.met], row.reason)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def save(rows: Sequence[Row], text: str, json_file: Path, page_file: Path) -> None:
    """Write both files; each is whole at any moment."""
    listed = ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in rows)
    for file, content in ((json_file, f"[\n{listed}\n]\n"), (page_file, text)):
        fresh = file.with_suffix(".new")
        fresh.write_text(content, encoding="utf-8")
        fresh.replace(file)


def load(json_file: Path) -> list[Row]:
    """The rows of an earlier run; none when there was none."""
    if not json_file.exists():
        return []
    return [decode(record) for record in json.loads(json_file.read_text(encoding="utf-8"))]


def read_lines(file: Path) -> list[Row]:
    """The rows that a part has passed on; a line that was cut off by its end is left out."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")
    return [decode(json.loads(line)) for line in lines[:-1]]
