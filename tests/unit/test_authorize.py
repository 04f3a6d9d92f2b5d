"""The Authorization header, the keys behind it, and the address that failures are counted for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.answers import Refusal
from ingest_api.authorize import Caller, Callers, client_address, parse_networks, read_bearer
from shared.errors import OperatorError
from tests.support.catalog import DAY_MS, NOW_MS, SECRET, MemoryCatalog, digest, example_catalog, key_record

GOOD = f"Bearer {SECRET}".encode()


def callers(catalog: MemoryCatalog, *, cache_max: int = 10) -> Callers:
    """A look-up as a worker process has it."""
    return Callers(catalog, node="node-1", cache_max=cache_max, rate_limit=10_000, retention_days=90)


def find(catalog: MemoryCatalog, secret: str = SECRET, now_ms: int = NOW_MS) -> Caller | Refusal:
    """One look-up by a process that has nothing remembered."""
    return callers(catalog).find([f"Bearer {secret}".encode()], now_ms)


BEARER: list[tuple[list[bytes], bytes | Refusal]] = [
    ([b"Bearer abc"], b"abc"),
    ([b"bearer abc"], b"abc"),
    ([b"BEARER abc"], b"abc"),
    ([b"BeArEr    abc"], b"abc"),
    ([b"Bearer \t abc \t "], b"abc"),
    ([b"  Bearer abc"], b"abc"),
    ([b"Bearer a-b._~+/c=="], b"a-b._~+/c=="),
    ([], Refusal.AUTHORIZATION_MISSING),
    ([b"Bearer abc", b"Bearer abc"], Refusal.AUTHORIZATION_DOUBLED),
    ([b""], Refusal.AUTHORIZATION_MALFORMED),
    ([b"Bearer"], Refusal.AUTHORIZATION_MALFORMED),
    ([b"Bearer "], Refusal.AUTHORIZATION_MALFORMED),
    ([b"abc"], Refusal.AUTHORIZATION_MALFORMED),
    ([b"Bearerabc"], Refusal.AUTHORIZATION_MALFORMED),
    ([b"Basic YTpi"], Refusal.AUTHORIZATION_MALFORMED),
    ([b"Token abc"], Refusal.AUTHORIZATION_MALFORMED),
    ([b"Bearer $(key)"], Refusal.AUTHORIZATION_MALFORMED),
    ([b"$(key)"], Refusal.AUTHORIZATION_MALFORMED),
    ([b"Bearer abc def"], Refusal.AUTHORIZATION_MALFORMED),
    ([b"Bearer abc, Bearer abc"], Refusal.AUTHORIZATION_MALFORMED),
    ([b"Bearer abc\n"], Refusal.AUTHORIZATION_MALFORMED),
    ([b"Bearer \xff"], Refusal.AUTHORIZATION_MALFORMED),
]


@pytest.mark.parametrize(("values", "expected"), BEARER)
def test_bearer(values: list[bytes], expected: bytes | Refusal) -> None:
    """One header with the scheme bearer in any case and white space; everything else says what is wrong."""
    assert read_bearer(values) == expected


@given(st.lists(st.binary(max_size=30), max_size=3))
def test_any_bearer(values: list[bytes]) -> None:
    """Any bytes are a secret or a reason."""
    assert isinstance(read_bearer(values), bytes | Refusal)


def test_known_key() -> None:
    """A known secret gives its tenant, key, grants, limit and retention."""
    caller = find(example_catalog())
    assert isinstance(caller, Caller)
    assert (caller.tenant, caller.key_id, caller.grants) == ("acme", "k1", frozenset({"shortlinkclicks"}))
    assert (caller.rate_limit, caller.retention_ms, caller.is_agent_source) == (10_000, 90 * DAY_MS, False)
    assert b'"source":"api"' in caller.origin
    assert b'"source":"batch"' in caller.batch_origin


def test_unknown_key() -> None:
    """A secret that no key has is unknown; case counts."""
    assert find(example_catalog(), "other") is Refusal.KEY_UNKNOWN
    assert find(example_catalog(), SECRET.upper()) is Refusal.KEY_UNKNOWN


@pytest.mark.parametrize(("left_ms", "expired"), [(1, False), (0, True), (-1, True)])
def test_expiry(left_ms: int, expired: bool) -> None:
    """A secret works until the millisecond before its end, also when it is remembered."""
    catalog = example_catalog()
    secret = {"digest": digest(SECRET), "created_at": 0, "expires_at": NOW_MS + left_ms}
    catalog.put("key", "k1", key_record(secrets=[secret]))
    lookup = callers(catalog)
    assert isinstance(lookup.find([GOOD], NOW_MS - 10), Caller)
    assert (lookup.find([GOOD], NOW_MS) is Refusal.KEY_EXPIRED) is expired


def test_two_secrets() -> None:
    """Both secrets of a key work at once; with the first removed the second goes on alone."""
    catalog = example_catalog()
    secrets = [{"digest": digest(text), "created_at": 0, "expires_at": None} for text in ("one", "two")]
    catalog.put("key", "k1", key_record(secrets=secrets))
    lookup = callers(catalog)
    assert isinstance(lookup.find([b"Bearer one"], NOW_MS), Caller)
    assert isinstance(lookup.find([b"Bearer two"], NOW_MS), Caller)
    catalog.put("key", "k1", key_record(secrets=secrets[1:]))
    assert lookup.find([b"Bearer one"], NOW_MS) is Refusal.KEY_UNKNOWN
    assert isinstance(lookup.find([b"Bearer two"], NOW_MS), Caller)


def test_revocation_is_seen_at_once() -> None:
    """A new catalog version ends what was remembered: a revoked key is refused, a new limit holds."""
    catalog = example_catalog()
    lookup = callers(catalog)
    assert isinstance(lookup.find([GOOD], NOW_MS), Caller)
    catalog.put("key", "k1", key_record(rate_limit=5))
    caller = lookup.find([GOOD], NOW_MS)
    assert isinstance(caller, Caller)
    assert caller.rate_limit == 5
    catalog.put("key", "k1", key_record(revoked=True))
    assert lookup.find([GOOD], NOW_MS) is Refusal.KEY_REVOKED
    catalog.put("key", "k1", None)
    assert lookup.find([GOOD], NOW_MS) is Refusal.KEY_UNKNOWN


@pytest.mark.parametrize(("of_key", "of_tenant", "limit"), [(5, 7, 5), (None, 7, 7), (None, None, 10_000), (0, 7, 0)])
def test_rate_limit(of_key: int | None, of_tenant: int | None, limit: int) -> None:
    """The key's limit, else its tenant's, else the setting."""
    catalog = example_catalog()
    catalog.put("key", "k1", key_record(rate_limit=of_key))
    catalog.put("tenant", "acme", {"v": 1, "tenant": "acme", "rate_limit": of_tenant})
    caller = find(catalog)
    assert isinstance(caller, Caller)
    assert (caller.rate_limit, caller.limit_header) == (limit, (b"x-ratelimit-limit", b"%d" % limit))


def test_catalog_not_ready() -> None:
    """Without a catalog no key can be judged; a header that is wrong by itself still is."""
    catalog = example_catalog()
    catalog.is_ready = False
    assert find(catalog) is Refusal.CATALOG_NOT_READY
    assert callers(catalog).find([], NOW_MS) is Refusal.AUTHORIZATION_MISSING


def test_memory_is_bounded() -> None:
    """No more keys are remembered than allowed, no stranger at all, and a forgotten key is found again."""
    catalog = example_catalog()
    for number in range(5):
        catalog.put("key", f"n{number}", key_record(f"secret{number}", key_id=f"n{number}"))
    lookup = callers(catalog, cache_max=3)
    for _ in range(2):
        for number in range(5):
            assert isinstance(lookup.find([f"Bearer secret{number}".encode()], NOW_MS), Caller)
            lookup.find([f"Bearer stranger{number}".encode()], NOW_MS)
            assert len(lookup._cache) <= 3
    assert not any(SECRET.encode() in remembered for remembered in lookup._cache)


TRUSTED = "10.0.0.0/8, 2001:db8::/32,192.0.2.9"
FORWARDED = [
    ("198.51.100.1", [b"203.0.113.5"], "198.51.100.1"),  # a stranger's word
    ("10.0.0.1", [], "10.0.0.1"),
    ("10.0.0.1", [b"203.0.113.5"], "203.0.113.5"),
    ("10.0.0.1", [b"1.1.1.1, 203.0.113.5"], "203.0.113.5"),  # the first one is the client's invention
    ("10.0.0.1", [b"203.0.113.5, 10.1.1.1, 192.0.2.9"], "203.0.113.5"),
    ("10.0.0.1", [b"203.0.113.5", b"10.1.1.1"], "203.0.113.5"),
    ("10.0.0.1", [b"203.0.113.5:4711"], "203.0.113.5"),
    ("10.0.0.1", [b"[2001:db9::1]:4711"], "2001:db9::1"),
    ("10.0.0.1", [b"10.2.2.2"], "10.2.2.2"),
    ("10.0.0.1", [b"unknown"], "10.0.0.1"),
    ("10.0.0.1", [b"203.0.113.5, \xff"], "10.0.0.1"),
    ("::ffff:10.0.0.1", [b"203.0.113.5"], "203.0.113.5"),
    ("2001:db8::1", [b"203.0.113.5"], "203.0.113.5"),
    ("", [b"203.0.113.5"], ""),
]


@pytest.mark.parametrize(("peer", "forwarded", "client"), FORWARDED)
def test_client_address(peer: str, forwarded: list[bytes], client: str) -> None:
    """Only trusted proxies are believed, and the last address that is not theirs is the client."""
    assert client_address(peer, forwarded, parse_networks(TRUSTED)) == client


def test_networks() -> None:
    """An empty setting trusts nobody; a wrong one stops the start and names the part."""
    assert parse_networks("") == ()
    with pytest.raises(OperatorError, match="nonsense"):
        parse_networks("10.0.0.0/8,nonsense")
