"""Deliveries without a target: claims that decode as they were, parts of a range, folders that never replace."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from clickledger.deliveries.records import Claim, claim_name, decode_claim, encode_manifest, latest, seconds_of, slices
from clickledger.deliveries.recount import rows_in
from clickledger.deliveries.target import open_target
from clickledger.edr_export import shape_of
from reporting.edr.columns import Compression, Format, Shape
from reporting.edr.selection import Span, Spans
from shared.errors import OperatorError
from shared.positions import AcceptedGap
from shared.rte import Position

CLAIM = Claim(
    sequence=7,
    tenant="a/b ü",
    from_s=1_780_000_000,
    to_s=1_780_003_600,
    after=Position("s", (3, 9)),
    up_to=Position("s", (10, 9, 4)),
    shape=Shape(Format.CSV, Compression.GZIP),
    file_rows_max=4,
)


def test_a_claim_is_read_as_it_was_written() -> None:
    """With the range, partitions that are new since the last one included, and a folder name without surprises."""
    assert decode_claim(CLAIM.encode()) == CLAIM
    assert CLAIM.spans == Spans("s", (Span(0, 3, 10), Span(2, 0, 4)))
    assert CLAIM.folder == "edr-a%2Fb%20%C3%BC-20260528T202640Z-20260528T212640Z"
    assert CLAIM.file_name(1, "ab" * 32).endswith("Z.00001.abababababababab.csv.gz")


def test_accepted_gaps_are_no_positions() -> None:
    """Positions add up to the audit's rows; the gaps are listed, as far as they lie in the range."""
    gaps = [AcceptedGap(0, 1, 4, "", ""), AcceptedGap(0, 8, 8, "", ""), AcceptedGap(1, 0, 99, "", "")]
    first, second = json.loads(encode_manifest(CLAIM, [], gaps))["partitions"]
    assert (first["positions"], first["gaps"]) == (4, [{"first": 3, "last": 4}, {"first": 8, "last": 8}])
    assert (second["positions"], second["gaps"]) == (4, [])


@given(
    st.lists(st.text('a"\r\n,', max_size=6), min_size=1, max_size=9), st.sampled_from(Compression), st.integers(1, 9)
)
def test_a_files_rows_are_counted(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], compression: Compression, chunk: int
) -> None:
    """However quotes and ends of lines lie in the texts, and wherever a piece of the file ends; a cut file is an error."""
    pack: Callable[[bytes], bytes] = {
        Compression.NONE: bytes,
        Compression.GZIP: lambda content: gzip.compress(content[:5]) + gzip.compress(content[5:]),
        Compression.ZSTD: zstandard.ZstdCompressor().compress,
    }[compression]
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows([["name"], *([text] for text in texts)])
    file = tmp_path_factory.mktemp("recount") / "file"
    for form, content in (
        (Format.CSV, written.getvalue().encode()),
        (Format.NDJSON, "".join(json.dumps({"name": text}) + "\n" for text in texts).encode()),
    ):
        file.write_bytes(pack(content))
        shape = Shape(form, compression)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("clickledger.deliveries.recount._CHUNK", chunk)
            assert rows_in(file, shape) == len(texts)
    if compression is not Compression.NONE:
        file.write_bytes(pack(content)[:-3])
        with pytest.raises(EOFError):
            rows_in(file, shape)
        file.write_bytes(b"no such compression")
        with pytest.raises(OSError, match="not what it should be"):
            rows_in(file, shape)


@pytest.mark.parametrize("rows", [0, 1, 14, 15, 16, 300])
def test_a_parquet_files_rows_are_counted(tmp_path: Path, rows: int) -> None:
    """By its index, however many columns and groups of rows it lists; without a whole index it is an error."""
    file, shape = tmp_path / "x.parquet", Shape(Format.PARQUET, Compression.ZSTD)
    columns = {"n": pa.array(range(rows)), "text": pa.array(["x"] * rows), "is": pa.array([True] * rows)}
    pq.write_table(pa.table(columns), file, row_group_size=1)
    assert rows_in(file, shape) == rows
    whole = file.read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    endless = b"\x19\xf3" + b"\xff" * 8 + b"\x7f"  # a list of 2^63 bytes that are not there
    for broken in (
        b"",
        whole[:-1],
        b"PAR1",
        whole[:4] + endless + len(endless).to_bytes(4, "little") + b"PAR1",
        whole[:4] + b"\x15\x02" * (length // 2) + (length // 2 * 2).to_bytes(4, "little") + b"PAR1",
    ):
        file.write_bytes(broken)
        with pytest.raises(EOFError):
            rows_in(file, shape)


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", CLAIM.encode().replace(b"csv", b"xls"), b'{"v":2}'])
def test_what_is_no_claim_is_refused(value: bytes) -> None:
    """Other bytes, and a newer release's claims, are never guessed at."""
    with pytest.raises(OperatorError):
        decode_claim(value)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 40)), max_size=6), st.integers(1, 30))
def test_parts_of_a_range(sizes: list[tuple[int, int]], rows_max: int) -> None:
    """Together the whole range in its order, each full but the last."""
    spans = Spans("s", tuple(Span(p, first, first + size) for p, (first, size) in enumerate(sizes)))
    parts = slices(spans, rows_max)
    offsets = [(span.partition, o) for part in parts for span in part.spans for o in range(span.first, span.end)]
    assert offsets == [(span.partition, o) for span in spans.spans for o in range(span.first, span.end)]
    assert all(part.size == rows_max for part in parts[:-1])
    assert all(0 < part.size <= rows_max for part in parts)


def test_the_last_claim() -> None:
    """By its number; other files are none."""
    assert latest([]) == 0
    assert latest([claim_name(2), claim_name(11), "claims/x.json", "claims/99999999.json.tmp"]) == 11


def test_intervals() -> None:
    """A number and a unit."""
    assert [seconds_of(text) for text in ("90s", "15m", "1h", "1d")] == [90, 900, 3_600, 86_400]
    for text in ("0h", "1", "h", "1w", "-1h", "1.5h"):
        with pytest.raises(ValueError, match="15m"):
            seconds_of(text)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("a.csv", Shape(Format.CSV, Compression.NONE)),
        ("a.csv.gz", Shape(Format.CSV, Compression.GZIP)),
        ("a.b.ndjson.zst", Shape(Format.NDJSON, Compression.ZSTD)),
        ("a.parquet", Shape(Format.PARQUET, Compression.ZSTD)),
    ],
)
def test_a_files_name_says_its_format(name: str, shape: Shape) -> None:
    """And its compression."""
    assert shape_of(Path(name)) == shape


async def test_a_folder_never_replaces(tmp_path: Path) -> None:
    """The first put stands; workplaces of dead processes are deleted, those of living ones are not."""
    dead = tmp_path / ".working" / "dead"
    dead.mkdir(parents=True)
    with open_target(str(tmp_path)) as one, open_target(str(tmp_path)) as other:
        assert not dead.exists()
        assert one.workplace.exists()
        assert [await one.put_new("claims/1", b"1"), await other.put_new("claims/1", b"2")] == [True, False]
        assert await other.read("claims/1") == b"1"
        assert list(await one.names("claims")) == ["claims/1"]
        await one.delete("claims/1")
        assert await other.read("claims/1") is None
    assert not list((tmp_path / ".working").iterdir())
    with pytest.raises(OperatorError, match="ftp"), open_target("ftp://x/y"):
        pass
