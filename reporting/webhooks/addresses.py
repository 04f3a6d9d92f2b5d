"""Where webhooks may go: URLs and addresses that a tenant may name, without I/O.

Rules. A URL is judged when it is given and again before each attempt, an address when a connection to it is opened, so
that a name that means something else by then leads nowhere. Public means: globally reachable, unicast, and no form that
carries another address inside. What is allowed beyond that, the operator says by network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import ada_url

from shared.errors import OperatorError
from shared.settings import WebhookSettings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

URL_CHARS_MAX: Final = 2_048
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""All that was ever given out; `is_global` also says yes to ::/96, fec0::/10 and multicast."""
_NEVER: Final[Sequence[Network]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # a cloud's own services, at a public address
        "192.88.99.0/24",  # relays into 6to4
        "192.0.0.0/24",  # protocol assignments; `is_global` of some Pythons makes exceptions
        "2002::/16",  # 6to4: carries an IPv4 address
        "2001::/23",  # Teredo, ORCHID and others
        "3fff::/20",  # documentation, newer than some Pythons
    )
)


class BadUrl(ValueError):
    """A URL that no webhook may have; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL as it is sent to."""

    url: str
    """Normalised as browsers do, the host in ASCII."""
    host: str
    is_local: bool
    """Only networks that the operator allowed may be reached: by http, or on a port that is not for the public."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What the operator allows."""

    networks: Sequence[Network] = ()
    ports: frozenset[int] = frozenset({443, 8443})

    @classmethod
    def of(cls, settings: WebhookSettings) -> Reach:
        """From the settings. Raises OperatorError for what is no network or port."""
        try:
            networks = tuple(ipaddress.ip_network(text) for text in _split(settings.webhooks_allow_networks))
        except ValueError as exc:
            raise OperatorError(f"settings: CLICKLEDGER_WEBHOOKS_ALLOW_NETWORKS: {exc}") from exc
        ports = _split(settings.webhooks_ports)
        if not all(text.isascii() and text.isdigit() and 0 < int(text) < 65_536 for text in ports):
            raise OperatorError(f"settings: CLICKLEDGER_WEBHOOKS_PORTS: {settings.webhooks_ports!r} are no ports")
        return cls(networks, frozenset(map(int, ports)))

    def target(self, url: str) -> Target:
        """The URL of a webhook, judged by its text. Raises BadUrl."""
        if len(url) > URL_CHARS_MAX:
            raise BadUrl(f"url: {len(url):,} characters, at most {URL_CHARS_MAX:,} are allowed")
        try:
            normal = ada_url.normalize_url(url)
        except ValueError as exc:
            raise BadUrl("url: this is no URL") from exc
        parts = urlsplit(normal)
        if parts.scheme not in ("https", "http"):
            raise BadUrl("url: only https is allowed")
        if "@" in parts.netloc:
            raise BadUrl("url: a user or password in it is not allowed")
        if "#" in normal:
            raise BadUrl("url: a fragment in it is not allowed")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        is_local = parts.scheme == "http" or port not in self.ports
        if is_local and not self.networks:
            allowed = ", ".join(map(str, sorted(self.ports)))
            raise BadUrl("url: only https is allowed" if parts.scheme == "http" else f"url: port {port}, not {allowed}")
        target = Target(normal, parts.hostname or "", is_local)
        if (address := _literal(target.host)) is not None and not self.permits(address, is_local=is_local):
            raise BadUrl("url: this address may not be reached")
        return target

    def permits(self, address: Address, *, is_local: bool) -> bool:
        """Whether a connection to the address may be opened."""
        address = _unwrapped(address)
        if any(address.version == network.version and address in network for network in self.networks):
            return True
        return not is_local and is_public(address)


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet's, and of one machine."""
    address = _unwrapped(address)
    if any(address.version == network.version and address in network for network in _NEVER):
        return False
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that the system connects to for an IPv4-mapped one."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _split(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]
