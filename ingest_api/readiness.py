"""Whether this process can do its job now, and why not: can a click be made durable, is there a catalog."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ingest_api.publish import GroupCommit


class CatalogHealth(Protocol):
    """The part of `shared.catalog.Catalog` that readiness needs."""

    version: int
    is_ready: bool
    is_complete: bool
    age_ms: int


class Readiness:
    """The two questions of `/readyz`."""

    def __init__(self, catalog: CatalogHealth, commit: GroupCommit, is_stopping: Callable[[], bool]) -> None:
        self._catalog = catalog
        self._commit = commit
        self._is_stopping = is_stopping

    def why_no_catalog(self) -> str:
        """Why there is no catalog to look links and keys up in; empty when there is one."""
        if self._catalog.is_ready:
            return ""
        if self._catalog.version < 0:
            return "the catalog was not read yet"
        if not self._catalog.is_complete:
            return "the catalog was not read to its end yet"
        return f"the catalog is too old: no news from Kafka for {self._catalog.age_ms // 1000} s"

    def why_not_durable(self) -> str:
        """Why no click can be made durable; empty when it can."""
        return self._commit.why_not_ready() if self._catalog.is_ready else ""

    def reasons(self) -> list[str]:
        """Everything that is missing."""
        if self._is_stopping():
            return ["stopping"]
        return [why for why in (self.why_no_catalog(), self.why_not_durable()) if why]

    @property
    def catalog_version(self) -> int:
        """The version that this process serves: `links load --wait` waits for it."""
        return self._catalog.version
