"""Tenants and keys as records."""

from __future__ import annotations

from typing import Any

import pytest

from clickledger import keyring
from clickledger.keyring import KeyringError
from shared.keys import FoundKey, Grant, KeyFault, digest_of, find_key, read_bearer

_NOW_MS = 1_700_000_000_000


class _Records:
    """A catalog that holds the given keys."""

    def __init__(self, *records: dict[str, Any]) -> None:
        self._by_digest = {entry["digest"]: record for record in records for entry in record["secrets"]}

    def key_by_digest(self, digest: str) -> dict[str, Any] | None:
        return self._by_digest.get(digest)


def _issue(**changes: Any) -> keyring.Issued:
    arguments: dict[str, Any] = {
        "key_id": "k1",
        "tenant": "t",
        "grants": ["shortlinkclicks"],
        "random_bytes": bytes(range(32)),
        "now_ms": _NOW_MS,
    }
    return keyring.create_key(**{**arguments, **changes})


def test_a_secret_is_returned_and_only_its_digest_kept() -> None:
    """Nothing in the record reveals the secret, and the record is found by it."""
    issued = _issue()
    assert issued.secret not in str(issued.record)
    assert issued.record["secrets"] == [
        {"digest": digest_of(issued.secret.encode()), "created_at": _NOW_MS, "expires_at": None}
    ]
    assert find_key(_Records(issued.record), issued.secret.encode(), _NOW_MS) == FoundKey(issued.record, None)


def test_a_secret_passes_as_a_bearer_token() -> None:
    """Whatever the random bytes, the text fits an Authorization header."""
    for value in (bytes(32), b"\xff" * 32, bytes(range(224, 256))):
        secret = keyring.encode_secret(value)
        assert read_bearer([f"Bearer {secret}".encode()]) == secret.encode()


@pytest.mark.parametrize("size", [31, 33])
def test_a_secret_of_another_size_is_a_bug(size: int) -> None:
    """256 bits, no more and no less."""
    with pytest.raises(ValueError, match="32 bytes"):
        keyring.encode_secret(bytes(size))


def test_rolling_adds_a_second_secret_and_a_third_is_refused() -> None:
    """Both secrets are valid at once; the message says how to go on."""
    first = _issue()
    second = keyring.roll_key(first.record, random_bytes=bytes(32), now_ms=_NOW_MS + 1)
    records = _Records(second.record)
    for secret in (first.secret, second.secret):
        assert isinstance(find_key(records, secret.encode(), _NOW_MS), FoundKey)
    with pytest.raises(KeyringError, match="--secret 1"):
        keyring.roll_key(second.record, random_bytes=bytes(32), now_ms=_NOW_MS)


def test_revoking_the_first_secret_makes_the_second_the_first() -> None:
    """The roll-over's last step."""
    rolled = keyring.roll_key(_issue().record, random_bytes=bytes(32), now_ms=_NOW_MS)
    record = keyring.revoke_key(rolled.record, 1)
    assert [entry["digest"] for entry in record["secrets"]] == [digest_of(rolled.secret.encode())]
    assert not record["revoked"]
    assert keyring.revoke_key(record, 1)["revoked"]


@pytest.mark.parametrize("number", [0, 2, -1])
def test_revoking_a_secret_that_is_not_there_is_refused(number: int) -> None:
    """No index trick removes another one."""
    with pytest.raises(KeyringError, match="1 secret"):
        keyring.revoke_key(_issue().record, number)


def test_a_revoked_key_is_found_as_revoked_and_cannot_be_rolled() -> None:
    """Revocation is for ever."""
    issued = _issue()
    record = keyring.revoke_key(issued.record)
    assert find_key(_Records(record), issued.secret.encode(), _NOW_MS) is KeyFault.REVOKED
    with pytest.raises(KeyringError, match="revoked"):
        keyring.roll_key(record, random_bytes=bytes(32), now_ms=_NOW_MS)


def test_an_expiring_secret_ends_at_its_millisecond() -> None:
    """Valid until just before, then expired."""
    issued = _issue(expires_ms=1000)
    records = _Records(issued.record)
    assert isinstance(find_key(records, issued.secret.encode(), _NOW_MS + 999), FoundKey)
    assert find_key(records, issued.secret.encode(), _NOW_MS + 1000) is KeyFault.EXPIRED


def test_an_unknown_secret_is_unknown() -> None:
    """Another key's existence changes nothing."""
    assert find_key(_Records(_issue().record), b"ckl_other", _NOW_MS) is KeyFault.UNKNOWN


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([], KeyFault.MISSING),
        ([b"Bearer a", b"Bearer a"], KeyFault.DOUBLED),
        ([b"Basic YTpi"], KeyFault.MALFORMED),
        ([b"token"], KeyFault.MALFORMED),
        ([b"Bearer $(key)"], KeyFault.MALFORMED),
        ([b"Bearer "], KeyFault.MALFORMED),
    ],
)
def test_headers_without_a_usable_token(values: list[bytes], fault: KeyFault) -> None:
    """Each mistake has its own text."""
    assert read_bearer(values) is fault


def test_grants_are_checked_and_ordered() -> None:
    """Unknown ones and none at all are refused with the list of known ones."""
    assert keyring.parse_grants(["admin", " reports ", "admin"]) == ["reports", "admin"]
    for grants in ([], [""], ["read"], ["admin", "root"]):
        with pytest.raises(KeyringError, match="shortlinkclicks, reports, webhooks, admin"):
            keyring.parse_grants(grants)
    assert {str(grant) for grant in Grant} == {"shortlinkclicks", "reports", "webhooks", "admin"}


@pytest.mark.parametrize(
    ("text", "ms"), [("30d", 2_592_000_000), ("1s", 1000), ("2w", 1_209_600_000), ("90m", 5_400_000)]
)
def test_durations(text: str, ms: int) -> None:
    """A number and a unit."""
    assert keyring.parse_duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "0d", "30", "d", "-1d", "1.5h", "30 days", "9999999999d"])
def test_other_durations_are_refused(text: str) -> None:
    """The message shows how to write one."""
    with pytest.raises(KeyringError, match="30d"):
        keyring.parse_duration_ms(text)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"retention_days": 0}, "retention-days"),
        ({"retention_days": 3651}, "retention-days"),
        ({"privacy": "hide"}, "store, truncate, drop"),
        ({"zone": "Mars/Olympus"}, "time zone"),
        ({"rate_limit": 0}, "rate-limit"),
        ({"rate_limit": 16_777_216}, "rate-limit"),
    ],
)
def test_tenant_settings_out_of_range_are_refused(changes: dict[str, Any], refusal: str) -> None:
    """Just outside each limit."""
    with pytest.raises(KeyringError, match=refusal):
        keyring.change_tenant(keyring.create_tenant("t"), **changes)


def test_tenant_settings_in_range_are_taken_and_others_left() -> None:
    """Limits themselves are allowed."""
    record = keyring.change_tenant(
        keyring.create_tenant("t"), retention_days=3650, privacy="drop", zone="Asia/Kolkata", rate_limit=1
    )
    assert keyring.change_tenant(record) == record
    assert record == {
        "v": 1,
        "tenant": "t",
        "retention_days": 3650,
        "privacy": "drop",
        "zone": "Asia/Kolkata",
        "rate_limit": 1,
    }


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "-a", "a" * 65, "ä", "a b"])
def test_names_that_would_break_something_are_refused(name: str) -> None:
    """Names go into catalog keys, URLs and logs."""
    with pytest.raises(KeyringError, match="letters"):
        keyring.create_tenant(name)
