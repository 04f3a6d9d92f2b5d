"""Tenants and keys as catalog records: made, rolled, revoked, described.

Rule: pure; random bytes and the time are arguments. A plain secret is returned once and kept nowhere.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from zoneinfo import ZoneInfo, available_timezones

from shared.errors import OperatorError
from shared.keys import Grant, digest_of

SECRET_BYTES: Final = 32
"""256 random bits, so that a digest needs neither salt nor stretching."""
SECRETS_MAX: Final = 2
"""Both valid at once, so that a key can be rolled over without downtime."""
PRIVACY_MODES: Final = ("store", "truncate", "drop")
RETENTION_DAYS_MAX: Final = 3650
RATE_LIMIT_MAX: Final = 16_777_215
"""Clicks per window; the shared counters have 24 bits."""

_DAY_MS: Final = 86_400_000
_UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": _DAY_MS, "w": 7 * _DAY_MS}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,8})([smhdw])")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class KeyringError(OperatorError):
    """A change that is refused; the message says what to do instead."""


class KeyringUsage(KeyringError):
    """A value that was given is not a possible one."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A key's record with the plain secret that was just added to it."""

    record: dict[str, Any]
    secret: str


def encode_secret(random_bytes: bytes) -> str:
    """The text of a secret: 43 URL-safe characters behind a prefix that secret scanners can look for."""
    if len(random_bytes) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(random_bytes)}")
    return "ckl_" + base64.urlsafe_b64encode(random_bytes).decode().rstrip("=")


def create_key(
    *,
    key_id: str,
    tenant: str,
    grants: Sequence[str],
    random_bytes: bytes,
    now_ms: int,
    expires_ms: int | None = None,
    rate_limit: int | None = None,
    caller_user_agent: bool = False,
) -> Issued:
    """A new key with its first secret; `expires_ms` from now on. Raises KeyringError."""
    secret = encode_secret(random_bytes)
    record = {
        "v": 1,
        "key_id": key_id,
        "tenant": tenant,
        "grants": parse_grants(grants),
        "secrets": [_secret_entry(secret, now_ms, expires_ms)],
        "rate_limit": check_rate_limit(rate_limit),
        "revoked": False,
        "caller_user_agent": caller_user_agent,
    }
    return Issued(record, secret)


def roll_key(record: Mapping[str, Any], *, random_bytes: bytes, now_ms: int, expires_ms: int | None = None) -> Issued:
    """The key with one more secret; both are valid until the first is revoked. Raises KeyringError."""
    if record["revoked"]:
        raise KeyringError(f"key {record['key_id']} is revoked: create a new one")
    if len(record["secrets"]) >= SECRETS_MAX:
        raise KeyringError(
            f"key {record['key_id']} has {SECRETS_MAX} secrets: first revoke one, "
            f"for example: clickledger keys revoke {record['key_id']} --secret 1"
        )
    secret = encode_secret(random_bytes)
    return Issued({**record, "secrets": [*record["secrets"], _secret_entry(secret, now_ms, expires_ms)]}, secret)


def revoke_key(record: Mapping[str, Any], secret_number: int | None = None) -> dict[str, Any]:
    """The key without one secret (1 or 2; the second becomes the first), or, with None, revoked altogether.

    Raises KeyringError when there is no such secret. Revoking the last secret revokes the key.
    """
    if secret_number is None:
        return {**record, "revoked": True}
    secrets = list(record["secrets"])
    if not 1 <= secret_number <= len(secrets):
        raise KeyringError(f"key {record['key_id']} has {len(secrets)} secret(s), there is no number {secret_number}")
    if len(secrets) == 1:
        return {**record, "revoked": True}
    del secrets[secret_number - 1]
    return {**record, "secrets": secrets}


def _secret_entry(secret: str, now_ms: int, expires_ms: int | None) -> dict[str, Any]:
    return {
        "digest": digest_of(secret.encode("ascii")),
        "created_at": now_ms,
        "expires_at": None if expires_ms is None else now_ms + expires_ms,
    }


def create_tenant(tenant: str) -> dict[str, Any]:
    """A tenant with every setting at its default."""
    return {
        "v": 1,
        "tenant": check_name("tenant", tenant),
        "retention_days": 90,
        "privacy": "store",
        "zone": "UTC",
        "rate_limit": 10_000,
    }


def change_tenant(
    record: Mapping[str, Any],
    *,
    retention_days: int | None = None,
    privacy: str | None = None,
    zone: str | None = None,
    rate_limit: int | None = None,
) -> dict[str, Any]:
    """The tenant with the given settings; None leaves one as it is. Raises KeyringUsage."""
    changed = dict(record)
    if retention_days is not None:
        if not 1 <= retention_days <= RETENTION_DAYS_MAX:
            raise KeyringUsage(f"--retention-days {retention_days} is not in 1 to {RETENTION_DAYS_MAX}")
        changed["retention_days"] = retention_days
    if privacy is not None:
        if privacy not in PRIVACY_MODES:
            raise KeyringUsage(f"--privacy {privacy!r} is not one of {', '.join(PRIVACY_MODES)}")
        changed["privacy"] = privacy
    if zone is not None:
        if zone not in available_timezones():
            raise KeyringUsage(f"--zone {zone!r} is no time zone name, as Asia/Kolkata or UTC is")
        changed["zone"] = ZoneInfo(zone).key
    if rate_limit is not None:
        changed["rate_limit"] = check_rate_limit(rate_limit)
    return changed


def parse_grants(grants: Sequence[str]) -> list[str]:
    """Known grants, each once, in a fixed order. Raises KeyringUsage naming the known ones."""
    wanted = {grant.strip() for grant in grants if grant.strip()}
    known = [str(grant) for grant in Grant]
    if not wanted or not wanted <= set(known):
        unknown = ", ".join(sorted(wanted - set(known))) or "nothing"
        raise KeyringUsage(f"--grants {unknown}: a key needs one or more of {', '.join(known)}")
    return [grant for grant in known if grant in wanted]


def check_rate_limit(rate_limit: int | None) -> int | None:
    """A limit in its range, or None. Raises KeyringUsage."""
    if rate_limit is not None and not 1 <= rate_limit <= RATE_LIMIT_MAX:
        raise KeyringUsage(f"--rate-limit {rate_limit} is not in 1 to {RATE_LIMIT_MAX:,}")
    return rate_limit


def check_name(what: str, name: str) -> str:
    """A name that is safe in URLs, logs and file names. Raises KeyringUsage."""
    if not _NAME.fullmatch(name):
        raise KeyringUsage(f"{what} {name!r}: 1-64 letters, digits, '.', '_', '-', the first a letter or digit")
    return name


def parse_duration_ms(text: str) -> int:
    """`30d`, `12h`, `90m`, `45s`, `2w` in milliseconds. Raises KeyringUsage."""
    matched = _DURATION.fullmatch(text.strip())
    if matched is None:
        raise KeyringUsage(f"{text!r} is no duration: write for example 30d, 12h or 90m")
    return int(matched[1]) * _UNITS_MS[matched[2]]
