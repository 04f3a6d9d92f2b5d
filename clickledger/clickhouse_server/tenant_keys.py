"""Which tenant a key reads for, by the machine's own copy of the catalog."""

from pathlib import Path
from typing import Final

from clickledger.clickhouse_server.errors import NETWORK_ERROR, refusal
from shared.catalog import Catalog
from shared.keys import Grant, KeyFault, find_key
from shared.settings import CatalogSettings

_NO_SECRET: Final = b""


class TenantKeys:
    """Looks secrets up; for one thread. A revocation counts as soon as the copy has it, within a second."""

    def __init__(self, folder: Path | None, settings: CatalogSettings) -> None:
        self._folder, self._settings = folder, settings
        self._catalog: Catalog | None = None

    def allows(self, tenant: str, secret: bytes, now_ms: int) -> bool:
        """Whether `secret` belongs to a key of `tenant` with the grant `reports`.

        Raises StatementError (210, to be tried again) while the catalog is not there yet or too old.
        """
        if self._folder is None or secret == _NO_SECRET:
            return False
        if self._catalog is None:
            self._catalog = Catalog(self._settings, self._folder)
        self._catalog.refresh()
        if not self._catalog.is_ready:
            raise refusal(NETWORK_ERROR, "The catalog, which knows the tenants' keys, is not ready. Try again.")
        found = find_key(self._catalog, secret, now_ms)
        return not isinstance(found, KeyFault) and found.has(Grant.REPORTS) and found.record["tenant"] == tenant

    def close(self) -> None:
        """Release the catalog's file."""
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None
