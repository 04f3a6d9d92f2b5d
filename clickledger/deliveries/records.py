"""What is written down about a delivery: the claim before its first byte, the manifest after its last one. Pure.

Claims are numbered without holes. Each begins where the one before it ended, so the ranges of a target are a chain: no
row is in two of them and none between them, whoever wrote them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import orjson

from reporting.edr.columns import NAMES, Compression, Format, Shape
from reporting.edr.pulls import gaps_in
from reporting.edr.selection import Span, Spans
from shared.errors import OperatorError
from shared.positions import AcceptedGap
from shared.rte import Position

VERSION: Final = 1
CLAIMS: Final = "claims"
DIGEST_CHARS: Final = 16
"""Of a file's SHA-256, in its name."""
_CLAIM: Final = re.compile(r"claims/(\d{8})\.json")
_EVERY: Final = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Claim:
    """One delivery, as it was decided."""

    sequence: int
    tenant: str
    from_s: int
    """begin of its interval, seconds since the epoch: where the interval before it ended"""
    to_s: int
    """end of its interval: rows that were stored by then are in this delivery or an earlier one"""
    after: Position
    up_to: Position
    shape: Shape
    file_rows_max: int

    @property
    def folder(self) -> str:
        """Where its set is."""
        return f"edr-{quote(self.tenant, safe='')}-{_compact(self.from_s)}-{_compact(self.to_s)}"

    @property
    def manifest_name(self) -> str:
        """Whose presence makes the set complete."""
        return f"{self.folder}/manifest.json"

    def file_name(self, number: int, digest: str) -> str:
        """The name of a file of the set, by its number and SHA-256: other bytes have another name."""
        return f"{self.folder}/{self.folder}.{number:05}.{digest[:DIGEST_CHARS]}{self.shape.suffix}"

    @property
    def spans(self) -> Spans:
        """Its rows, partition by partition."""
        spans = (Span(p, self.after.offset(p), end) for p, end in enumerate(self.up_to.offsets))
        return Spans(self.up_to.stream, tuple(span for span in spans if span.size > 0))

    def files(self) -> list[Spans]:
        """The parts of the range that become a file each; the same at every attempt."""
        return slices(self.spans, self.file_rows_max)

    def encode(self) -> bytes:
        """As it stands in the target."""
        return orjson.dumps(
            {"v": VERSION, **_about(self), "file_rows_max": self.file_rows_max},
            option=orjson.OPT_INDENT_2,
        )


@dataclass(frozen=True, slots=True)
class File:
    """One file of a set."""

    name: str
    bytes: int
    sha256: str
    rows: int
    counts: Mapping[int, Mapping[str, int]]
    """rows by partition and status"""


def decode_claim(value: bytes) -> Claim:
    """Read a claim. Raises OperatorError for one of a newer release, or for other bytes."""
    try:
        found = orjson.loads(value)
        if found["v"] != VERSION:
            raise OperatorError(f"a delivery of version {found['v']}: use a newer release")
        return Claim(
            sequence=found["sequence"],
            tenant=found["tenant"],
            from_s=_seconds(found["interval"]["from"]),
            to_s=_seconds(found["interval"]["to"]),
            after=Position.parse(found["after"]),
            up_to=Position.parse(found["up_to"]),
            shape=Shape(Format(found["format"]), Compression(found["compression"])),
            file_rows_max=found["file_rows_max"],
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise OperatorError(f"not the record of a delivery: {value[:80]!r}") from exc


def encode_manifest(claim: Claim, files: Sequence[File], gaps: Sequence[AcceptedGap]) -> bytes:
    """The manifest of a whole set; `gaps` of its stream."""
    partitions = []
    for span in claim.spans.spans:
        rows: dict[str, int] = {}
        for file in files:
            for status, count in file.counts.get(span.partition, {}).items():
                rows[status] = rows.get(status, 0) + count
        missing = gaps_in(gaps, span)
        partitions.append(
            {
                "partition": span.partition,
                "first": span.first,
                "last": span.end - 1,
                "positions": span.size - sum(part.size for part in missing),
                "gaps": [{"first": part.first, "last": part.end - 1} for part in missing],
                "rows": dict(sorted(rows.items())),
            }
        )
    listed = [{k: v for k, v in asdict(file).items() if k != "counts"} for file in files]
    manifest: dict[str, Any] = {
        "v": VERSION,
        **_about(claim),
        "columns": list(NAMES),
        "rows": sum(file.rows for file in files),
        "partitions": partitions,
        "files": listed,
    }
    return orjson.dumps(manifest, option=orjson.OPT_INDENT_2)


def files_of(manifest: bytes) -> set[str]:
    """The names of everything that a manifest makes part of its set."""
    names = [file["name"] for file in orjson.loads(manifest)["files"]]
    return {*names, *(f"{name}.sha256" for name in names)}


def summary(manifest: bytes) -> tuple[int, int]:
    """Rows and files of a set."""
    found = orjson.loads(manifest)
    return found["rows"], len(found["files"])


def slices(spans: Spans, rows_max: int) -> list[Spans]:
    """The same spans in their order, cut into parts of at most `rows_max` raw offsets."""
    parts: list[list[Span]] = []
    room = 0
    for span in spans.spans:
        first = span.first
        while first < span.end:
            if not room:
                parts.append([])
                room = rows_max
            end = min(span.end, first + room)
            parts[-1].append(Span(span.partition, first, end))
            room -= end - first
            first = end
    return [Spans(spans.stream, tuple(part)) for part in parts]


def claim_name(sequence: int) -> str:
    """Where a claim stands in the target."""
    return f"{CLAIMS}/{sequence:08}.json"


def latest(names: Sequence[str]) -> int:
    """The highest number among the claims of a target, 0 without any."""
    found = [int(match[1]) for name in names if (match := _CLAIM.fullmatch(name))]
    return max(found, default=0)


def seconds_of(every: str) -> int:
    """The seconds of `90s`, `15m`, `1h` or `1d`. Raises ValueError."""
    match = _EVERY.fullmatch(every)
    if match is None:
        raise ValueError(f"{every!r} is not a time such as 15m, 1h or 1d")
    return int(match[1]) * _SECONDS[match[2]]


def _about(claim: Claim) -> dict[str, Any]:
    return {
        "sequence": claim.sequence,
        "tenant": claim.tenant,
        "interval": {"from": _iso(claim.from_s), "to": _iso(claim.to_s)},
        "after": str(claim.after),
        "up_to": str(claim.up_to),
        "format": claim.shape.format,
        "compression": claim.shape.compression,
    }


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def _compact(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%SZ")
