"""Databases of places on disk: the DB-IP country file of this package, and any MaxMind-format files by setting."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import maxminddb

from enricher.addresses import NO_PLACE, Place, merged, place_of
from shared.errors import OperatorError

COUNTRY_FILE: Final = Path(__file__).parent / "data" / "dbip-country.mmdb"
"""DB-IP Country Lite, CC BY 4.0: "IP Geolocation by DB-IP" (enricher/data/DBIP-LICENSE)."""


class PlaceFiles:
    """Looks an address up in each file, first file first; each file fills in what those before it did not say."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open (memory-map) the files. Raises OperatorError, naming the file, when one cannot be read."""
        self._readers: list[tuple[Path, maxminddb.Reader]] = []
        for path in paths:
            try:
                self._readers.append((path, maxminddb.open_database(path)))
            except (OSError, ValueError, maxminddb.InvalidDatabaseError) as exc:
                self.close()
                raise OperatorError(f"address database {path}: {exc}") from exc
        self.version = "+".join(map(_label, (reader for _, reader in self._readers)))

    def look_up(self, address: str) -> Place:
        """The place of an address, `NO_PLACE` when no file knows it. Raises OperatorError: a file is damaged."""
        place = NO_PLACE
        for path, reader in self._readers:
            if ":" in address and reader.metadata().ip_version == 4:
                continue
            try:
                record = reader.get(address)
            except (ValueError, OSError, maxminddb.InvalidDatabaseError) as exc:
                raise OperatorError(f"address database {path}: {exc}") from exc
            if record is not None:
                found = place_of(record)
                place = found if place is NO_PLACE else merged(place, found)
        return place

    def close(self) -> None:
        """Unmap the files."""
        for _, reader in self._readers:
            reader.close()


def _label(reader: maxminddb.Reader) -> str:
    metadata = reader.metadata()
    built = datetime.fromtimestamp(metadata.build_epoch, UTC)
    return f"{metadata.database_type}-{built:%Y%m%d}"[:100]
