"""The measured figures that the model and the sizing are made with, each with where it was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("figures.json")
RESULTS: Final = Path(__file__).parents[1] / "results.json"


@dataclass(frozen=True, slots=True)
class Figures:
    """Microseconds of processor time unless the name says otherwise; a click is one click, a row its row."""

    api_us: float
    """a click that came alone, in the API at full load"""
    api_batch_us: float
    """a click of a batch of 100"""
    api_group_us: float
    """a group of clicks that is appended together, beside its clicks"""
    broker_us: float
    """a click's records in the broker that leads the partition, both topics and all reading"""
    broker_group_us: float
    """a group, beside its clicks"""
    enricher_us: float
    enricher_group_us: float
    """a group that is enriched together, beside its clicks"""
    enricher_fetch_ms: float
    """ms until records that were appended are in the enricher's hands"""
    sink_us: float
    """a row, beside its block"""
    sink_block_ms: float
    """processor ms of a block, beside its rows"""
    sink_fetch_ms: float
    """the same for the sink"""
    clickhouse_us: float
    """a row in ClickHouse, merges included, beside its block"""
    clickhouse_block_ms: float
    """processor ms of a block in ClickHouse, questions and merges included, beside its rows"""
    ack_ms: float
    """ms from a batch to its acknowledgement by all replicas, beside the broker's processor time"""
    ask_ms: float
    """ms of the position's question and the commit of the plan"""
    insert_ms: float
    """ms of an insert of few rows at least"""
    raw_bytes: float
    """a click's record in clicks.raw, on the wire and on the broker's disk"""
    enriched_bytes: float
    """a click's record in clicks.enriched"""
    row_bytes: float
    """a stored row, projections and indexes included"""


RESULT_NAMES: Final[Mapping[str, str]] = {
    "api_us": "single click: CPU",
    "api_batch_us": "batches of 100: CPU",
    "broker_us": "batches of 100: broker",
    "enricher_us": "batches of 100: enricher",
    "sink_us": "CPU of the sink",
    "clickhouse_us": "CPU of ClickHouse",
}
"""Rows of bench/results.json; CPU-seconds a million are microseconds each. Measured where groups and blocks are large: what
a group costs by itself is a figure of its own. Not the bytes of a stored row: those of the results are of rows with short texts."""


def load(path: Path = FILE) -> tuple[Figures, dict[str, str]]:
    """The figures, and where each was measured."""
    listed: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return Figures(**{name: float(each["value"]) for name, each in listed.items()}), {
        name: str(each["source"]) for name, each in listed.items()
    }


def save(figures: Figures, sources: Mapping[str, str], path: Path = FILE) -> None:
    """Write the figures, one a line."""
    lines = [
        f"{json.dumps(field.name)}: "
        + json.dumps({"value": getattr(figures, field.name), "source": sources[field.name]}, ensure_ascii=False)
        for field in fields(Figures)
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def from_results(
    figures: Figures, sources: Mapping[str, str], rows: Sequence[Mapping[str, Any]]
) -> tuple[Figures, dict[str, str]]:
    """The figures with what the results of `make bench` say instead, where they have it."""
    values = {str(row["name"]): row.get("value") for row in rows}
    found = {
        field: round(float(value), 3)
        for field, name in RESULT_NAMES.items()
        if (value := values.get(name)) is not None and float(value) > 0
    }
    said = {field: f"bench/results.json, {RESULT_NAMES[field]!r}" for field in found}
    return replace(figures, **found), {**sources, **said}
