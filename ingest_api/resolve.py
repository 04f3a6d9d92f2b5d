"""Short URL -> the caller's link, and whether a click on it still counts. Also the dry run behind `links/resolve`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import orjson

from ingest_api.answers import Refusal, describe
from ingest_api.normalise import normalise
from shared.clicked_at import clicked_at_ms

if TYPE_CHECKING:  # only its shape: the catalog's module opens LMDB and Kafka
    from shared.catalog import Match


_TEXT: Final = rb'"[^"]*+"'
_LINKS: Final = re.compile(
    rb'^\{"v":1,"tenant":(%b),"link":%b,"promotion_id":%b,"recipient":%b,"link_name":%b,"long_url":%b,'
    rb'"sent_at":(?:null|(\d{13})),"expires_at":(null|\d{13}),"disabled":false,'
    rb'"match":"(?:exact|prefix)","registered_at":(\d{13})\}$' % ((_TEXT,) * 6),
    re.MULTILINE,
)
"""Links as `shared.links.read_link` makes them, one a line: tenant, `sent_at`, `expires_at`, `registered_at`.

The catalog's copy holds JSON objects only. So where a quote that the pattern takes for a text's end is an escaped one, the
text would have to go on with a comma and end at the next quote, and the bare name after it would be no JSON.
"""


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
    """The stored record, byte for byte."""
    record: Mapping[str, Any]


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
    record = orjson.loads(match.link)
    if record["tenant"] != tenant:
        return Refusal.LINK_OF_OTHER_TENANT if catalog.is_current else Refusal.CATALOG_STALE
    return tuple.__new__(FoundLink, (key, match.rule, match.link, record))  # cheaper than calling the class


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


def judge_link(link: Mapping[str, Any], clicked_at: int, retention_ms: int) -> Refusal | None:
    """Why a click at `clicked_at` (ms) on a known link is deliberately not recorded; None when it is.

    A link ends at `expires_at`; a click reported late counts when it happened before. Retention runs from `sent_at`,
    else from the registration, and its last millisecond counts.
    """
    if link.get("disabled"):
        return Refusal.LINK_DISABLED
    expires_at = link.get("expires_at")
    if expires_at is not None and clicked_at >= expires_at:
        return Refusal.LINK_EXPIRED
    start = link.get("sent_at")
    if start is None:
        start = link["registered_at"]
    return Refusal.RETENTION_PASSED if clicked_at > start + retention_ms else None


def all_count(links: Sequence[bytes], tenant: str, now_ms: int, retention_ms: int) -> bool:
    """Whether each of these records is a link of the tenant on which `judge_link` lets a click of now count.

    False also when one of them has not the form in which links are registered, and must be decoded to be known.
    """
    text = b"\n".join(links)
    if text.count(b"\n") != len(links) - 1:
        return False
    found = _LINKS.findall(text)
    if len(found) != len(links):
        return False
    tenants, sent, ends, registered = zip(*found, strict=True)
    starts = [at or otherwise for at, otherwise in zip(sent, registered, strict=True)] if b"" in sent else sent
    if set(tenants) != {orjson.dumps(tenant)} or now_ms > int(min(starts)) + retention_ms:
        return False
    first_end = min(ends)  # of 13 digits each, and digits come before `null`
    return bool(first_end == b"null" or now_ms < int(first_end))


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
    refusal = judge_link(found.record, now_ms, retention_ms)
    return Resolution(found.key, found.rule, found.record, refusal, describe(refusal) if refusal else "")
