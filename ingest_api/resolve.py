"""Short URL -> the caller's link, and whether a click on it still counts. Also the dry run behind `links/resolve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import orjson

from ingest_api.answers import Refusal, describe
from ingest_api.normalise import normalise
from shared.clicked_at import clicked_at_ms
from shared.stored_links import DISABLED, Terms, read_terms, record_of

if TYPE_CHECKING:  # only its shape: the catalog's module opens LMDB and Kafka
    from shared.catalog import Match


class LinkCatalog(Protocol):
    """The part of `shared.catalog.Catalog` that links need."""

    is_current: bool

    def resolve(self, key: str) -> Match | None:
        """The link of a key: exact, else the longest registered prefix of whole segments."""


class FoundLink(NamedTuple):
    """A link of the caller's tenant."""

    key: str
    """What the URL was normalised to; with a prefix link longer than the link's own key."""
    rule: str
    """`exact` or `prefix`."""
    raw: bytes
    """The record, byte for byte."""
    terms: Terms


def find_link(catalog: LinkCatalog, tenant: str, short_url: str) -> FoundLink | Refusal:
    """The link that `short_url` stands for.

    While the catalog's copy is behind, "no such link" is not known: that is a 500 to try again, never a 1003. Another
    tenant's link gets the same answer as none.
    """
    key, refusal = normalise(short_url)
    if refusal is not None:
        return refusal
    match = catalog.resolve(key)
    if match is None:
        return Refusal.LINK_UNKNOWN if catalog.is_current else Refusal.CATALOG_STALE
    terms = read_terms(match.link)
    if terms.tenant != tenant:
        return Refusal.LINK_OF_OTHER_TENANT if catalog.is_current else Refusal.CATALOG_STALE
    return tuple.__new__(FoundLink, (key, match.rule, record_of(match.link), terms))  # cheaper than calling the class


def judge_clicked_at(value: object, *, now_ms: int, retention_ms: int, ahead_ms_max: int) -> tuple[int, bool]:
    """(when the click happened in ms, whether a given `clicked-at` was ignored).

    It counts within the retention period before now and at most `ahead_ms_max` after; both ends included.
    """
    if value is None:
        return now_ms, False
    moment_ms = clicked_at_ms(value)
    if moment_ms is None or not now_ms - retention_ms <= moment_ms <= now_ms + ahead_ms_max:
        return now_ms, True
    return moment_ms, False


def judge_link(link: Terms, clicked_at: int, retention_ms: int) -> Refusal | None:
    """Why a click at `clicked_at` (ms) on a known link is deliberately not recorded; None when it is.

    A link ends at `expires_at`; a click reported late counts when it happened before. Retention runs from `sent_at`,
    else from the registration, and its last millisecond counts.
    """
    if clicked_at >= link.end_ms:
        return Refusal.LINK_DISABLED if link.end_ms == DISABLED else Refusal.LINK_EXPIRED
    return Refusal.RETENTION_PASSED if clicked_at > link.start_ms + retention_ms else None


class Resolution(NamedTuple):
    """What `links/resolve` shows."""

    key: str
    rule: str
    link: Mapping[str, Any] | None
    refusal: Refusal | None
    """Why a click now would not be recorded; None when it would."""
    why_not: str


def explain(catalog: LinkCatalog, tenant: str, short_url: str, *, now_ms: int, retention_ms: int) -> Resolution:
    """Dry run for a click that happens now: the key, the rule that matched, the link, and why not."""
    found = find_link(catalog, tenant, short_url)
    if isinstance(found, Refusal):
        words = describe(found) or "No link of this tenant is registered for the key."
        return Resolution(normalise(short_url).key, "", None, found, words)
    refusal = judge_link(found.terms, now_ms, retention_ms)
    return Resolution(found.key, found.rule, orjson.loads(found.raw), refusal, describe(refusal) if refusal else "")
