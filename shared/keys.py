"""API keys: from an Authorization header to the key record behind its secret.

A secret is looked up by its SHA-256, so no comparison leaks time, and only digests are stored. Pure: `now_ms` is given.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

_BEARER: Final = re.compile(rb"[ \t]*bearer[ \t]+([A-Za-z0-9._~+/-]+=*)[ \t]*", re.IGNORECASE)
"""RFC 6750, with any case and any white space. The literal `$(key)` of a script with a missing variable is no token."""


class Grant(StrEnum):
    """What a key may be used for; one per API."""

    CLICKS = "shortlinkclicks"
    REPORTS = "reports"
    WEBHOOKS = "webhooks"
    ADMIN = "admin"


class KeyFault(StrEnum):
    """Why a caller is not known; the text may be shown to the caller."""

    MISSING = "the authorization header is missing"
    DOUBLED = "more than one authorization header"
    MALFORMED = "the authorization header is not 'Bearer <key>'"
    UNKNOWN = "no such key"
    REVOKED = "the key was revoked"
    EXPIRED = "the key has expired"


class KeyCatalog(Protocol):
    """The part of `shared.catalog.Catalog` that keys need."""

    def key_by_digest(self, digest: str) -> dict[str, Any] | None:
        """The record of the key with this secret's SHA-256 in hex."""


class FoundKey(NamedTuple):
    """A key's record and the end of the secret that was used (ms, None for never)."""

    record: Mapping[str, Any]
    expires_at_ms: int | None

    def has(self, grant: Grant) -> bool:
        """Whether the key may be used for `grant`."""
        return grant in self.record["grants"]

    def is_expired(self, now_ms: int) -> bool:
        """Whether the secret that was used has ended."""
        return self.expires_at_ms is not None and now_ms >= self.expires_at_ms


def digest_of(secret: bytes) -> str:
    """The form in which a secret is stored and found: SHA-256 in hex."""
    return hashlib.sha256(secret).hexdigest()


def read_bearer(authorization: Sequence[bytes]) -> bytes | KeyFault:
    """The secret in the values of all Authorization headers, or what is wrong with them."""
    if len(authorization) != 1:
        return KeyFault.DOUBLED if authorization else KeyFault.MISSING
    match = _BEARER.fullmatch(authorization[0])
    return match[1] if match else KeyFault.MALFORMED


def key_behind(catalog: KeyCatalog, digest: str) -> FoundKey | KeyFault:
    """The key with this secret's digest. Grants and expiry are not judged: the answer may be remembered."""
    record = catalog.key_by_digest(digest)
    entry = next((each for each in record["secrets"] if each["digest"] == digest), None) if record else None
    if record is None or entry is None:
        return KeyFault.UNKNOWN
    return KeyFault.REVOKED if record.get("revoked") else FoundKey(record, entry.get("expires_at"))


def find_key(catalog: KeyCatalog, secret: bytes, now_ms: int) -> FoundKey | KeyFault:
    """The key behind a secret now. Grants are not judged."""
    found = key_behind(catalog, digest_of(secret))
    return KeyFault.EXPIRED if isinstance(found, FoundKey) and found.is_expired(now_ms) else found
