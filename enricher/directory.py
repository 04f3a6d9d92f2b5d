"""What the enricher asks the catalog: a tenant's terms and a promotion's campaign, as of one catalog version.

The answers are decoded once and kept until the catalog changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from enricher.addresses import Privacy
from enricher.texts import ID_BYTES_MAX, following, text_of, time_ms_of
from shared.errors import OperatorError, TransientError

DAY_MS: Final = 24 * 3600 * 1000
RETENTION_DAYS_DEFAULT: Final = 90
"""contract.md: a tenant's retention period."""
RETENTION_DAYS_MAX: Final = 36_500
"""A hundred years: more than any row lives, less than a time column holds."""
KEPT_MAX: Final = 100_000
"""Decoded promotions kept, about 60 MB, and as many tenants: raw records may name any number that do not exist."""


class Tenant(NamedTuple):
    """A tenant's terms."""

    retention_ms: int
    privacy: Privacy


class Promotion(NamedTuple):
    """What a promotion's record says about the campaign, safe to store; '' or None where it says nothing."""

    campaign_id: str
    deployment_id: str
    sent_at_ms: int | None
    columns: bytes
    """`campaign_id` and `deployment_id`: see `following`."""
    sent_at: bytes
    """As JSON."""


def _promotion(campaign_id: str = "", deployment_id: str = "", sent_at_ms: int | None = None) -> Promotion:
    columns = following({"campaign_id": campaign_id, "deployment_id": deployment_id})
    return Promotion(
        campaign_id, deployment_id, sent_at_ms, columns, b"null" if sent_at_ms is None else b"%d" % sent_at_ms
    )


UNKNOWN_PROMOTION: Final = _promotion()


class CatalogReader(Protocol):
    """The part of `shared.catalog.Catalog` that is used."""

    @property
    def version(self) -> int:
        """Offset of the last applied record."""

    def tenant(self, tenant: str) -> dict[str, Any] | None:
        """A tenant's record."""

    def promotion(self, tenant: str, promotion_id: str) -> dict[str, Any] | None:
        """A promotion's record."""


class Directory:
    """Tenants and promotions of the catalog's present snapshot, decoded once per version."""

    def __init__(self, catalog: CatalogReader) -> None:
        self._catalog = catalog
        self._version = catalog.version
        self._tenants: dict[str, Tenant | None] = {}
        self._promotions: dict[tuple[str, str], Promotion] = {}

    @property
    def version(self) -> int:
        """The catalog version that answers come from; drops what an older version said."""
        version = self._catalog.version
        if version != self._version or len(self._promotions) > KEPT_MAX or len(self._tenants) > KEPT_MAX:
            self._tenants.clear()
            self._promotions.clear()
            self._version = version
        return version

    def tenant(self, tenant: str) -> Tenant | None:
        """A tenant's terms, None for an unknown tenant. Raises OperatorError for a record that makes no sense."""
        if tenant not in self._tenants:
            record = self._ask(self._catalog.tenant, tenant)
            self._tenants[tenant] = None if record is None else _tenant(tenant, record)
        return self._tenants[tenant]

    def promotion(self, tenant: str, promotion_id: str) -> Promotion:
        """A promotion's campaign; `UNKNOWN_PROMOTION` when it is not registered (yet)."""
        promotion = self._promotions.get((tenant, promotion_id))
        if promotion is None:
            record = self._ask(self._catalog.promotion, tenant, promotion_id)
            promotion = self._promotions[tenant, promotion_id] = (
                UNKNOWN_PROMOTION
                if record is None
                else _promotion(
                    text_of(record.get("campaign_id"), ID_BYTES_MAX),
                    text_of(record.get("deployment_id"), ID_BYTES_MAX),
                    time_ms_of(record.get("sent_at")),
                )
            )
        return promotion

    def _ask(self, question: Callable[..., dict[str, Any] | None], *names: str) -> dict[str, Any] | None:
        try:
            return question(*names)
        except Exception as exc:  # a local copy that cannot be read is the environment's failure, never a click's
            raise TransientError(f"catalog copy unreadable at {'/'.join(names)!r:.80}: {exc!r}") from exc


def _tenant(tenant: str, record: Mapping[str, Any]) -> Tenant:
    days = record.get("retention_days", RETENTION_DAYS_DEFAULT)
    if type(days) is not int or not 1 <= days <= RETENTION_DAYS_MAX:
        raise OperatorError(f"catalog: tenant {tenant}: retention_days {days!r:.40} is not 1 to {RETENTION_DAYS_MAX}")
    try:
        return Tenant(days * DAY_MS, Privacy(record.get("privacy", Privacy.STORE)))
    except ValueError as exc:
        # Guessing `store` would keep addresses that the tenant forbids, so nothing is enriched until it is corrected.
        raise OperatorError(f"catalog: tenant {tenant}: {exc}") from exc
