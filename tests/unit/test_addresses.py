"""Addresses: forms, kinds, privacy, places."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enricher.addresses import (
    NO_ADDRESS,
    AddressBook,
    Place,
    Privacy,
    _kind_of_special,
    kind_of,
    parse_address,
    place_of,
    truncated,
)
from enricher.places import COUNTRY_FILE, PlaceFiles
from shared.errors import OperatorError
from tests.support.enriching import address_book

FORMS = [
    ("203.199.178.211", "203.199.178.211", "public", "IN"),
    (" 203.199.178.211\t", "203.199.178.211", "public", "IN"),
    ("203.199.178.211:8080", "203.199.178.211", "public", "IN"),
    ('"8.8.8.8"', "8.8.8.8", "public", "US"),
    ("2a00:1450:4001::1", "2a00:1450:4001::1", "public", "DE"),
    ("[2A00:1450:4001:0::1]", "2a00:1450:4001::1", "public", "DE"),
    ("[2a00:1450:4001::1]:443", "2a00:1450:4001::1", "public", "DE"),
    ("fe80::1%eth0", "fe80::1", "link_local", ""),
    ("169.254.1.1", "169.254.1.1", "link_local", ""),
    ("::ffff:8.8.8.8", "8.8.8.8", "public", "US"),
    ("::ffff:10.0.0.1", "10.0.0.1", "private", ""),
    ("10.0.0.1, 8.8.8.8, 1.1.1.1", "8.8.8.8", "public", "US"),
    ("unknown, 192.168.3.4", "192.168.3.4", "private", ""),
    ("172.31.255.255", "172.31.255.255", "private", ""),
    ("fd00::1", "fd00::1", "private", ""),
    ("127.0.0.1", "127.0.0.1", "loopback", ""),
    ("::1", "::1", "loopback", ""),
    ("100.64.0.1", "100.64.0.1", "cgnat", ""),
    ("192.0.2.3", "192.0.2.3", "documentation", ""),
    ("198.51.100.3", "198.51.100.3", "documentation", ""),
    ("203.0.113.3", "203.0.113.3", "documentation", ""),
    ("2001:db8::1", "2001:db8::1", "documentation", ""),
    ("224.0.0.1", "224.0.0.1", "other", ""),
    ("0.0.0.0", "0.0.0.0", "other", ""),
    ("255.255.255.255", "255.255.255.255", "other", ""),
    ("999.1.1.1", "999.1.1.1", "invalid", ""),
    ("1.2.3.4:", "1.2.3.4:", "invalid", ""),
    ("1.2.3.4:99999", "1.2.3.4:99999", "invalid", ""),
    ("[::1", "[::1", "invalid", ""),
    ("010.1.1.1", "010.1.1.1", "invalid", ""),
    ("not an address", "not an address", "invalid", ""),
]


@pytest.mark.parametrize(("text", "ip", "kind", "country"), FORMS)
def test_every_form_gives_address_kind_and_country(text: str, ip: str, kind: str, country: str) -> None:
    """The forms of contract.md are understood, and only public addresses get a country."""
    located = address_book().locate(text, Privacy.STORE)
    assert (located.ip, located.ip_kind, located.place.country) == (ip, kind, country)


@pytest.mark.parametrize("text", ["", "  ", '""'])
def test_nothing_given_is_no_address(text: str) -> None:
    """An absent or blank address has no kind, unlike an invalid one."""
    assert address_book().locate(text, Privacy.STORE) == NO_ADDRESS


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("203.199.178.211", "203.199.178.0"),
        ("2a00:1450:4001:815::200e", "2a00:1450:4001::"),
        ("2002:0808:0809:1::1", "2002:808:800::"),
        ("203.199.178.211 (mobile)", ""),
    ],
)
def test_truncated_privacy_keeps_the_network_and_the_country_of_the_whole_address(text: str, kept: str) -> None:
    """Truncation comes after the look-up; an invalid text, which may hold an address, is not kept at all."""
    located = address_book().locate(text, Privacy.TRUNCATE)
    assert located.ip == kept
    assert located.place == address_book().locate(text, Privacy.STORE).place


def test_dropped_privacy_keeps_kind_and_country_only() -> None:
    """`drop` stores no part of the address."""
    located = address_book().locate("203.199.178.211", Privacy.DROP)
    assert (located.ip, located.ip_kind, located.place.country) == ("", "public", "IN")


SPECIAL_4 = [
    *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "169.254.0.0/16", "100.64.0.0/10", "240.0.0.0/4"),
]
"""Networks of IPv4 (RFC 6890) that end inside an octet."""


@given(st.ip_addresses() | st.sampled_from(SPECIAL_4).flatmap(lambda network: st.ip_addresses(network=network)))
def test_the_short_way_to_a_kind_agrees_with_the_networks(address: Any) -> None:
    """What the first bits alone decide, the lists of networks decide as well."""
    assert kind_of(address) == _kind_of_special(address)


def test_the_short_way_leaves_out_every_special_network() -> None:
    """Both ends of each first 16 bits of IPv4 and of each first hextet."""
    for begins in range(2**16):
        for rest in (0, 2**16 - 1):
            assert kind_of(address := IPv4Address((begins << 16) + rest)) == _kind_of_special(address)
    for hextet in range(2**16):
        for rest in (0, 2**112 - 1):
            assert kind_of(other := IPv6Address((hextet << 112) + rest)) == _kind_of_special(other)


@given(
    st.ip_addresses(v=4).map(str)
    | st.from_regex(r"([0-9]{1,3}\.){3}[0-9]{1,3}\n?", fullmatch=True, alphabet="0129.\n"),
    st.sampled_from(Privacy),
)
def test_the_short_way_of_a_plain_address_agrees_with_the_long_one(text: str, privacy: Privacy) -> None:
    """White space around it sends an address the long way."""
    assert address_book().locate(text, privacy) == address_book().locate(f" {text} ", privacy)


@given(st.ip_addresses())
def test_truncating_twice_changes_nothing(given_address: Any) -> None:
    """A truncated address is the address of its network."""
    address = parse_address(str(given_address))
    assert address is not None
    network = parse_address(truncated(address))
    assert network is not None
    assert truncated(network) == truncated(address) == str(network)


@given(st.one_of(st.text(), st.ip_addresses().map(str)), st.sampled_from(Privacy))
def test_locating_never_raises(text: str, privacy: Privacy) -> None:
    """An address is never a reason to refuse a click."""
    located = address_book().locate(text, privacy)
    assert len(located.ip.encode()) <= 64


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({"country_code": "in"}, Place("IN")),
        (
            {
                "country": {"iso_code": "DE"},
                "subdivisions": [{"iso_code": "BE", "names": {"en": "Land Berlin"}}],
                "city": {"names": {"en": "Berlin", "de": "Berlin"}},
                "autonomous_system_number": 3320,
            },
            Place("DE", "BE", "Berlin", 3320),
        ),
        (
            {"country": "FR", "region": "Île-de-France", "city": "Paris", "asn": "AS3215"},
            Place("FR", "Île-de-France", "Paris", 3215),
        ),
        ({"country": {"iso_code": 5}, "subdivisions": "x", "city": [], "asn": -1}, Place()),
        ({"country": "Germany", "autonomous_system_number": 2**40}, Place()),
        (None, Place()),
        ([], Place()),
    ],
)
def test_both_shapes_of_records_are_read(record: object, place: Place) -> None:
    """DB-IP's flat and MaxMind's nested records give the same place, and nonsense gives none."""
    assert place_of(record) == place


def test_a_second_file_fills_in_what_the_first_does_not_say() -> None:
    """Databases are asked in order and merged."""
    files = PlaceFiles([COUNTRY_FILE, COUNTRY_FILE])
    assert files.look_up("203.199.178.211") == Place("IN")
    assert files.version.count("country") == 2
    files.close()


def test_an_unreadable_file_is_the_operators_business(tmp_path: Path) -> None:
    """A missing or damaged database stops the start with its name, and never makes rows without places."""
    damaged = tmp_path / "damaged.mmdb"
    damaged.write_bytes(b"no database")
    for path in (tmp_path / "missing.mmdb", damaged):
        with pytest.raises(OperatorError, match=path.name):
            PlaceFiles([path])


def test_answers_are_remembered() -> None:
    """The second look-up of an address costs no database access."""
    files = PlaceFiles([COUNTRY_FILE])
    book = AddressBook(files)
    first = book.columns("8.8.8.8", Privacy.STORE)
    files.close()
    assert book.columns("8.8.8.8", Privacy.STORE) is first
