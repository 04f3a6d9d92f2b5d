"""Fetching an export over HTTP into a file: whole under its name, or not at all."""

from __future__ import annotations

import http.client
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

from rich import filesize
from rich.progress import Progress

from clickledger.deliveries.recount import RowCounter
from reporting.edr.columns import Compression, Format, Shape
from reporting.edr.selection import ROWS
from shared.errors import OperatorError, TransientError

PIECE_BYTES: Final = 256 << 10
_SILENCE_S: Final = 330.0
"""A little longer than the service waits for ClickHouse by default."""
_REFUSED: Final = (400, 401, 403, 404, 410)


def shape_of(file: Path) -> Shape:
    """Format and compression by a file's name: `.csv`, `.csv.gz`, `.ndjson.zst`, `.parquet` … Raises ValueError."""
    for form in Format:
        for compression in Compression:
            shape = Shape(form, compression)
            if file.name.endswith(shape.suffix) and (form is not Format.PARQUET or compression is Compression.ZSTD):
                return shape
    raise ValueError(f"{file.name}: end the name with .csv, .ndjson or .parquet (and .gz or .zst), or give --format")


class ExportBar:
    """A progress bar's task: rows where their number is known and they can be counted on the way, else bytes."""

    def __init__(self, bar: Progress, shape: Shape) -> None:
        self._bar, self._task = bar, bar.add_task("export", total=None, size="")
        self._counter = None if shape.format is Format.PARQUET else RowCounter(shape)
        self._bytes = 0

    def begin(self, headers: Mapping[str, str]) -> None:
        """The answer begins."""
        if self._counter is not None and ROWS.lower() in headers:
            self._bar.update(self._task, total=int(headers[ROWS.lower()]))

    def take(self, piece: bytes) -> None:
        """The next bytes."""
        self._bytes += len(piece)
        if self._counter is not None and not self._bar.disable:
            self._counter.feed(piece)
            self._bar.update(self._task, completed=self._counter.rows)
        self._bar.update(self._task, size=filesize.decimal(self._bytes))


def fetch(url: str, key: str, parameters: Mapping[str, str], file: Path, bar: ExportBar) -> dict[str, str]:
    """Write the answer to `file`, replacing it; `bar` hears of it. The answer's headers, in lower case.

    Raises OperatorError for a refusal, TransientError where trying again may help; `file` is then as it was.
    """
    address = urlsplit(url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=_SILENCE_S)
    path = f"{address.path.rstrip('/')}/v1/edr?{urlencode(parameters)}"
    working = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with closing(connection):
            connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
            headers = _receive(connection.getresponse(), working, bar)
        working.replace(file)
    except (OSError, http.client.HTTPException) as exc:
        if isinstance(exc, OSError) and exc.filename is not None:
            raise
        raise TransientError(f"{url}: the export broke off ({type(exc).__name__}); nothing was kept") from exc
    finally:
        working.unlink(missing_ok=True)
    return headers


def _receive(response: http.client.HTTPResponse, working: Path, bar: ExportBar) -> dict[str, str]:
    if response.status != http.client.OK:
        raise _refusal(response)
    headers = {name.lower(): value for name, value in response.getheaders()}
    bar.begin(headers)
    with working.open("xb") as out:
        while piece := response.read(PIECE_BYTES):
            out.write(piece)
            bar.take(piece)
        out.flush()
        os.fsync(out.fileno())
    return headers


def _refusal(response: http.client.HTTPResponse) -> OperatorError | TransientError:
    try:
        text = str(json.loads(response.read(1 << 20))["description"])
    except (ValueError, KeyError, TypeError):
        text = "not an answer of the reports"
    message = f"{response.status}: {text}"
    return OperatorError(message) if response.status in _REFUSED else TransientError(message)
