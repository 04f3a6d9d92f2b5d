"""Where webhooks may go: every way known to us of naming a machine that is not on the public internet is refused."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reporting.webhooks import sender as sending
from reporting.webhooks.addresses import URL_CHARS_MAX, BadUrl, Reach, is_public
from reporting.webhooks.messages import Message
from reporting.webhooks.schedule import Outcome
from reporting.webhooks.sender import RefusedAddress, Sender, check
from shared.errors import OperatorError
from shared.settings import WebhookSettings
from tests.support.webhooks import Endpoint

MESSAGE = Message("id", b"{}", "application/json", 1)
PUBLIC = ("93.184.216.34", "8.8.8.8", "2606:4700::6810:84e5", "2a00:1450:4001::1", "172.15.0.1", "100.63.255.255")
NOT_PUBLIC = (
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "169.254.0.1", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1"),
    *("198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("168.63.129.16", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1"),
    *("fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    *("64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1"),
    *("3fff::1", "5f00::1", "100::1", "4000::1"),
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    """Addresses of machines on the internet pass, as IPv4-mapped ones too."""
    assert is_public(ipaddress.ip_address(address))
    if ":" not in address:
        assert is_public(ipaddress.ip_address(f"::ffff:{address}"))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address: str) -> None:
    """This machine, neighbours, metadata services, carriers' networks, tunnels into them, groups and reserved ranges."""
    assert not is_public(ipaddress.ip_address(address))


@given(st.ip_addresses())
def test_what_is_public_is_global(address: Any) -> None:
    """Nothing passes that the standard library does not call global."""
    assert not is_public(address) or address.is_global


def target_of(url: str, reach: Reach | None = None) -> str:
    """The URL as it would be sent to."""
    return (reach or Reach()).target(url).url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example/", "only https"),
        ("ftp://hooks.example/", "only https"),
        ("file:///etc/passwd", "only https"),
        ("gopher://hooks.example/", "only https"),
        ("//hooks.example/", "no URL"),
        ("", "no URL"),
        ("https://", "no URL"),
        ("https://a b/", "no URL"),
        ("https://h%00.example/", "no URL"),
        ("https://hooks.example:99999/", "no URL"),
        ("https://user@hooks.example/", "user or password"),
        ("https://user:secret@hooks.example/", "user or password"),
        ("https://hooks.example/#here", "fragment"),
        ("https://hooks.example:22/", "port 22"),
        ("https://hooks.example:80/", "port 80"),
        ("https://hooks.example/" + "a" * URL_CHARS_MAX, "characters"),
        ("https://127.0.0.1/", "may not be reached"),
        ("https://127.1/", "may not be reached"),
        ("https://2130706433/", "may not be reached"),
        ("https://0x7f000001/", "may not be reached"),
        ("https://0177.0.0.1/", "may not be reached"),
        ("https://１２７.0.0.1/", "may not be reached"),
        ("https://[::1]/", "may not be reached"),
        ("https://[::ffff:169.254.169.254]/", "may not be reached"),
        ("https://169.254.169.254/latest/meta-data/", "may not be reached"),
    ],
)
def test_urls_that_are_refused(url: str, why: str) -> None:
    """Each with its reason, and without the secret that may stand in it."""
    with pytest.raises(BadUrl, match=why) as refused:
        target_of(url)
    assert "secret" not in str(refused.value)


def test_urls_are_normalised_as_browsers_do() -> None:
    """A name in another script becomes ASCII, line breaks vanish, the default port too; what is sent is what was judged."""
    assert target_of("https://Bücher.example:443/ä?q=ü") == "https://xn--bcher-kva.example/%C3%A4?q=%C3%BC"
    assert target_of("https://hooks.example/a\r\nb") == "https://hooks.example/ab"
    assert target_of("https://hooks.example:8443/x") == "https://hooks.example:8443/x"


def test_what_the_operator_allows() -> None:
    """Within the networks http and any port; beyond them the rules stay as they are."""
    reach = Reach.of(WebhookSettings(webhooks_allow_networks="127.0.0.0/8, ::1/128", webhooks_ports="443"))
    assert target_of("http://127.0.0.1:8080/x", reach) == "http://127.0.0.1:8080/x"
    assert target_of("https://[::1]:8443/", reach) == "https://[::1]:8443/"
    for url in ("http://8.8.8.8/", "https://8.8.8.8:22/", "https://10.0.0.1/", "http://[::ffff:10.0.0.1]/"):
        with pytest.raises(BadUrl):
            target_of(url, reach)
    assert reach.target("http://hooks.example/").is_local
    check(reach, "::ffff:127.0.0.1", is_local=True)
    with pytest.raises(RefusedAddress):
        check(reach, "8.8.8.8", is_local=True)


@pytest.mark.parametrize(
    "settings", [{"webhooks_allow_networks": "127.0.0.1/8"}, {"webhooks_ports": "https"}, {"webhooks_ports": "0"}]
)
def test_wrong_settings_are_refused(settings: dict[str, str]) -> None:
    """A network with host bits and a port that is none stop the start, with the name of the variable."""
    with pytest.raises(OperatorError, match="CLICKLEDGER_WEBHOOKS_"):
        Reach.of(WebhookSettings(**settings))  # type: ignore[arg-type]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Something that listens on this machine, and must hear nothing."""
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def answers_with(*addresses: str) -> Callable[..., list[Any]]:
    """A name server that gives these addresses in turn, one each time it is asked."""
    rest = list(addresses)

    def look_up(_host: str, port: int, _family: int) -> list[Any]:
        address = rest.pop(0) if len(rest) > 1 else rest[0]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    return look_up


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1%lo"])
async def test_a_name_that_leads_inside(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint, address: str) -> None:
    """A public name with a private address is not connected to."""
    monkeypatch.setattr(sending, "look_up", answers_with(address))
    reach = Reach(ports=frozenset({443, endpoint.port}))
    async with Sender(WebhookSettings(), reach) as sender:
        attempt = await sender.send(f"https://hooks.example:{endpoint.port}/", MESSAGE, {})
    assert (attempt.outcome, attempt.status) == (Outcome.REFUSED_ADDRESS, None)
    assert endpoint.received == []


async def test_a_name_with_a_private_address_among_public_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """All addresses of a name must be public: none is picked out."""

    def look_up(_host: str, port: int, _family: int) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in ("93.184.216.34", "10.0.0.1")]

    monkeypatch.setattr(sending, "look_up", look_up)
    async with Sender(WebhookSettings(), Reach()) as sender:
        assert (await sender.send("https://hooks.example/", MESSAGE, {})).outcome is Outcome.REFUSED_ADDRESS


async def test_the_address_is_checked_where_the_socket_is_made(
    monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint
) -> None:
    """A name that means something else between check and connection (rebinding) leads nowhere: the last check is the socket's."""
    monkeypatch.setattr(sending, "look_up", answers_with("127.0.0.1"))
    refused = []

    def check_once(reach: Reach, address: str, *, is_local: bool) -> None:
        refused.append(address)
        if len(refused) > 1:
            check(reach, address, is_local=is_local)

    monkeypatch.setattr(sending, "check", check_once)
    reach = Reach(ports=frozenset({443, endpoint.port}))
    async with Sender(WebhookSettings(), reach) as sender:
        attempt = await sender.send(f"https://hooks.example:{endpoint.port}/", MESSAGE, {})
    assert attempt.outcome is Outcome.REFUSED_ADDRESS
    assert len(refused) == 2
    assert endpoint.received == []


async def test_no_redirects_proxies_or_long_answers(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint) -> None:
    """A redirect is a failure and is not followed, the environment's proxy is not used, a body is not read to its end."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    reach = Reach(networks=(ipaddress.ip_network("127.0.0.0/8"),))
    async with Sender(WebhookSettings(), reach) as sender:
        endpoint.answering = lambda _: (307, {"location": "http://127.0.0.1:9/elsewhere"})
        attempt = await sender.send(endpoint.url, MESSAGE, {})
        assert (attempt.outcome, attempt.status) == (Outcome.STATUS, 307)
        endpoint.answering = lambda _: (200, {"retry-after": "soon"})
        assert (await sender.send(endpoint.url, MESSAGE, {})).outcome is Outcome.DELIVERED
    assert [got.path for got in endpoint.received] == ["/hook", "/hook"]


async def test_names_and_ports_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failure has its own word in the log."""
    reach = Reach(networks=(ipaddress.ip_network("127.0.0.0/8"),))
    async with Sender(WebhookSettings(), reach) as sender:
        assert (await sender.send("http://127.0.0.1:9/", MESSAGE, {})).outcome is Outcome.CONNECTION

        def unknown(*_: object) -> list[Any]:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")

        monkeypatch.setattr(sending, "look_up", unknown)
        assert (await sender.send("https://hooks.example/", MESSAGE, {})).outcome is Outcome.NAME
        assert (await sender.send("ftp://hooks.example/", MESSAGE, {})).outcome is Outcome.REFUSED_ADDRESS
