"""IP address in, stored address, kind and place out. Never a reason to refuse a click.

Rules (contract.md): IPv4 and IPv6, with port, brackets, zone id or IPv4-mapped; of a list in the style of
X-Forwarded-For the first public address; addresses that are not public get a kind and no place. The place is looked
up from the full address and only then is the address truncated or dropped, as the tenant's privacy mode says.
"""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final, NamedTuple, Protocol

from enricher.remembered import Remembered
from enricher.texts import bounded, following

ADDRESS_BYTES_MAX: Final = 1024
"""Bytes of the field that are looked at: room for a list of twenty IPv6 addresses."""
INVALID_BYTES_STORED_MAX: Final = 64
"""Bytes kept of something that is no address; the longest text of an address has 45."""
LIST_ITEMS_MAX: Final = 20
"""Addresses of a list that are looked at; real chains of proxies have fewer than 5."""
ADDRESSES_CACHED_MAX: Final = 50_000
ADDRESSES_CACHED_BYTES_MAX: Final = 32 << 20
"""Finished answers kept for each privacy mode, a usual one takes 400 bytes; clicks of one message come from few carrier
gateways."""
PLACE_BYTES_MAX: Final = 128
"""Bytes of a region's or city's name; the longest real city name has 168 letters and is never used in full."""
ASN_MAX: Final = 0xFFFF_FFFF

_QUOTES: Final = "\"' \t\r\n<>"

Address = IPv4Address | IPv6Address


class Privacy(StrEnum):
    """What a tenant lets us keep of an address."""

    STORE = "store"
    TRUNCATE = "truncate"
    """The network: /24 or /48."""
    DROP = "drop"


class Place(NamedTuple):
    """Where an address is; '' or 0 when no database says so."""

    country: str = ""
    """ISO 3166-1 alpha-2."""
    region: str = ""
    city: str = ""
    asn: int = 0


class Located(NamedTuple):
    """An address as it goes into a row."""

    ip: str
    ip_kind: str
    """public, private, loopback, cgnat, link_local, documentation, other, invalid; '' when none was given."""
    place: Place


NO_PLACE: Final = Place()
NO_ADDRESS: Final = Located("", "", NO_PLACE)


_COLUMNS: Final = ("ip", "ip_kind", *Place._fields)


def columns_of(located: Located) -> bytes:
    """The columns from `ip` to `asn`: see `following`."""
    ip, ip_kind, place = located
    return following(dict(zip(_COLUMNS, (ip, ip_kind, *place), strict=True)))


NO_ADDRESS_COLUMNS: Final = columns_of(NO_ADDRESS)


class Places(Protocol):
    """A database of places."""

    @property
    def version(self) -> str:
        """Name and build of the data, for the row's `geo_rules`."""

    def look_up(self, address: str) -> Place:
        """The place of a public address. Raises OperatorError when the database cannot be read."""


_DOCUMENTATION_4: Final = tuple(map(IPv4Network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")))  # RFC 5737
_DOCUMENTATION_6: Final = tuple(map(IPv6Network, ("2001:db8::/32", "3fff::/20")))  # RFC 3849, RFC 9637
_CGNAT: Final = IPv4Network("100.64.0.0/10")  # RFC 6598
_PRIVATE_4: Final = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))  # RFC 1918
_PRIVATE_6: Final = IPv6Network("fc00::/7")  # RFC 4193
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")  # RFC 3056
_SPECIAL_4: Final = frozenset(
    (
        *range(0x0100),  # 0.0.0.0/8
        *range(0x0A00, 0x0B00),  # 10.0.0.0/8
        *range(0x6440, 0x6480),  # 100.64.0.0/10
        *range(0x7F00, 0x8000),  # 127.0.0.0/8
        0xA9FE,  # 169.254.0.0/16
        *range(0xAC10, 0xAC20),  # 172.16.0.0/12
        *(0xC000, 0xC01F, 0xC034, 0xC058, 0xC0A8, 0xC0AF),  # networks in 192.0.0.0/8
        *(0xC612, 0xC613, 0xC633),  # 198.18.0.0/15, 198.51.100.0/24
        0xCB00,  # 203.0.113.0/24
    )
)
_OCTET: Final = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_PLAIN_4: Final = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}")
"""An IPv4 address as it would be written again."""
_MULTICAST_4: Final = 0xE000
"""First 16 bits of IPv4 in which some network is not public (RFC 6890), and from which none is public."""
_PLAIN_HEXTETS_6: Final = range(0x2003, 0x3FFF)
"""First hextets of IPv6 where all are public. Most addresses are judged by these alone, which is ten times as fast."""


def parse_address(text: str) -> Address | None:
    """One address in any of the forms that clients and proxies write; None when it is none."""
    bare = text.strip(_QUOTES)
    if bare.startswith("["):  # [2001:db8::1] and [2001:db8::1]:443
        bare, closed, rest = bare[1:].partition("]")
        if not closed or (rest and not _is_port(rest)):
            return None
    elif bare.count(":") == 1:  # 203.0.113.7:443
        bare, _, port = bare.partition(":")
        if not _is_port(":" + port):
            return None
    try:
        if ":" not in bare:
            return IPv4Address(bare)
        address = IPv6Address(bare.partition("%")[0])  # a zone id means something only on the host that wrote it
    except AddressValueError:
        return None
    return address.ipv4_mapped or address


def _is_port(text: str) -> bool:
    digits = text[1:]
    return text[0] == ":" and digits.isascii() and digits.isdigit() and int(digits) <= 65_535


def kind_of(address: Address) -> str:
    """The kind of an address by its network; the order matters, since documentation networks are private as well."""
    if isinstance(address, IPv4Address):
        if _is_plainly_public(int(address) >> 16):
            return "public"
    elif int(address) >> 112 in _PLAIN_HEXTETS_6:
        return "public"
    return _kind_of_special(address)


def _is_plainly_public(begins: int) -> bool:
    return begins < _MULTICAST_4 and begins not in _SPECIAL_4


def _kind_of_special(address: Address) -> str:
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link_local"
    if isinstance(address, IPv4Address):
        if address in _CGNAT:
            return "cgnat"
        if any(address in network for network in _DOCUMENTATION_4):
            return "documentation"
        if any(address in network for network in _PRIVATE_4):
            return "private"
    elif any(address in network for network in _DOCUMENTATION_6):
        return "documentation"
    elif address in _PRIVATE_6:
        return "private"
    return "public" if address.is_global and not address.is_multicast else "other"


def choose_address(text: str) -> tuple[Address | None, str]:
    """The address to use and its kind: of a list the first public one, else the first valid one."""
    chosen: tuple[Address | None, str] = (None, "invalid")
    for part in text.split(",", LIST_ITEMS_MAX)[:LIST_ITEMS_MAX]:
        address = parse_address(part)
        if address is None:
            continue
        kind = kind_of(address)
        if kind == "public":
            return address, kind
        if chosen[0] is None:
            chosen = address, kind
    return chosen


def truncated(address: Address) -> str:
    """The address of its network: the last octet (IPv4) or the last 80 bits (IPv6) set to zero.

    A 6to4 address holds a whole IPv4 address in its first 48 bits, so 88 bits of it are set to zero.
    """
    if isinstance(address, IPv4Address):
        return str(IPv4Address(int(address) & 0xFFFF_FF00))
    host_bits = 88 if address in _SIX_TO_FOUR else 80
    return str(IPv6Address(int(address) >> host_bits << host_bits))


class AddressBook:
    """Normalises and locates addresses; remembers the answers, for each privacy mode by itself."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.remembered = {privacy: Remembered(ADDRESSES_CACHED_MAX, ADDRESSES_CACHED_BYTES_MAX) for privacy in Privacy}
        self.version = places.version

    def columns(self, text: str, privacy: Privacy) -> bytes:
        """The columns of an address as it was sent (`columns_of`). Raises OperatorError as `locate`."""
        remembered = self.remembered[privacy]
        columns = remembered.get(text)
        if columns is None:
            columns = columns_of(self.locate(text, privacy))
            remembered.put(text, columns)
        return columns

    def locate(self, text: str, privacy: Privacy) -> Located:
        """What a row may say about the address, worked out. Raises OperatorError when the database cannot be read."""
        plain = _PLAIN_4.fullmatch(text)
        if plain is not None and _is_plainly_public(int(plain[1]) << 8 | int(plain[2])):
            return Located(_kept(text, privacy), "public", self._places.look_up(text))  # most: no objects needed
        text = bounded(text, ADDRESS_BYTES_MAX)
        if not text.strip(_QUOTES):
            return NO_ADDRESS
        address, kind = choose_address(text)
        if address is None:
            # Something like "203.199.178.211 (mobile)" may hold an address, so only `store` keeps it.
            kept = bounded(text.strip(), INVALID_BYTES_STORED_MAX) if privacy is Privacy.STORE else ""
            return Located(kept, kind, NO_PLACE)
        whole = str(address)
        place = self._places.look_up(whole) if kind == "public" else NO_PLACE
        match privacy:
            case Privacy.STORE:
                return Located(whole, kind, place)
            case Privacy.TRUNCATE:
                return Located(truncated(address), kind, place)
            case Privacy.DROP:
                return Located("", kind, place)


def _kept(plain: str, privacy: Privacy) -> str:
    """What is kept of an IPv4 address as it would be written again."""
    if privacy is Privacy.STORE:
        return plain
    return f"{plain.rpartition('.')[0]}.0" if privacy is Privacy.TRUNCATE else ""


def place_of(record: object) -> Place:
    """The place in one record of a database, in DB-IP's shape (`country_code`) or MaxMind's. Never raises."""
    if not isinstance(record, dict):
        return NO_PLACE
    country = record.get("country_code") or _name(record.get("country"), "iso_code") or record.get("country")
    subdivisions = record.get("subdivisions")
    first = subdivisions[0] if isinstance(subdivisions, list) and subdivisions else None
    return Place(
        country=_country(country),
        region=_text(_name(first, "iso_code") or _name(first, "names") or record.get("region")),
        city=_text(_name(record.get("city"), "names") or record.get("city")),
        asn=_asn(record.get("autonomous_system_number") or record.get("asn")),
    )


def merged(first: Place, second: Place) -> Place:
    """Both places in one; what the first says wins."""
    return Place(
        first.country or second.country,
        first.region or second.region,
        first.city or second.city,
        first.asn or second.asn,
    )


def _name(node: object, key: str) -> Any:
    if not isinstance(node, dict):
        return None
    value = node.get(key)
    return value.get("en") if isinstance(value, dict) else value


def _country(value: object) -> str:
    is_code = isinstance(value, str) and len(value) == 2 and value.isascii() and value.isalpha()
    return str(value).upper() if is_code else ""


def _text(value: object) -> str:
    return bounded(value, PLACE_BYTES_MAX) if isinstance(value, str) else ""


def _asn(value: object) -> int:
    digits = value[2:] if isinstance(value, str) and value[:2].upper() == "AS" else value
    if isinstance(digits, str) and digits.isascii() and digits.isdigit() and len(digits) <= 10:
        digits = int(digits)
    return digits if isinstance(digits, int) and 0 <= digits <= ASN_MAX else 0
