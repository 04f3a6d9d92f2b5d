"""The click generator and the bytes it makes."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest

from clickledger.load.clicks import Click, Target, batch_request, single_request
from clickledger.load.generate import Generator, Mix, app_visitors, log_visitors

_NOW_MS = 1_700_000_000_000
_LINKS = [f"http://s.example/a/{n}" for n in range(100)]


def test_the_same_seed_gives_the_same_clicks() -> None:
    """A run can be repeated."""
    first, second = (Generator(_LINKS, seed=3, run="r") for _ in range(2))
    assert [first.next(_NOW_MS) for _ in range(200)] == [second.next(_NOW_MS) for _ in range(200)]


def test_the_mix_has_every_oddity_in_about_its_share() -> None:
    """Keyed, repeated, late, without agent, without address, bots: all occur, none dominates."""
    generator = Generator(_LINKS, seed=1, run="r")
    clicks = [generator.next(_NOW_MS) for _ in range(5000)]
    keys = Counter(click.idempotency_key for click in clicks if click.idempotency_key)
    assert 150 < len(keys) < 500
    assert any(times > 1 for times in keys.values())
    late = [click.clicked_at_ms for click in clicks if click.clicked_at_ms is not None]
    assert 50 < len(late) < 400
    assert all(_NOW_MS - Mix().late_ms_max < at < _NOW_MS for at in late)
    assert 20 < sum(click.user_agent is None for click in clicks) < 300
    assert 20 < sum(click.ip_address is None for click in clicks) < 300
    assert 20 < sum("bot" in (click.user_agent or "").lower() for click in clicks) < 500


def test_a_repeated_click_is_the_same_in_every_byte() -> None:
    """A client's retry repeats key and body, so that it must become a duplicate."""
    generator = Generator(_LINKS, seed=1, run="r", mix=Mix(keyed=0.5, repeated=0.5))
    seen: dict[str, Click] = {}
    for _ in range(500):
        click = generator.next(_NOW_MS)
        if click.idempotency_key is not None:
            assert seen.setdefault(click.idempotency_key, click) == click


def test_the_shipped_visitors_are_usable() -> None:
    """Real agents and addresses, weights ascending, nothing empty."""
    for visitors in (log_visitors(), app_visitors()):
        assert len(visitors.entries) == len(visitors.cumulative) > 30
        assert list(visitors.cumulative) == sorted(visitors.cumulative)
        assert all(agent and len(agent) < 2048 for agent, _ in visitors.entries)


def test_no_links_is_refused() -> None:
    """The mistake is named at once."""
    with pytest.raises(ValueError, match="no links"):
        Generator([], seed=1, run="r")


def test_a_single_request_carries_key_and_body() -> None:
    """The head, the key as a header, the exact length."""
    head = Target.of("http://[::1]:8080", "secret").head("/p", "application/json")
    request = single_request(head, Click("http://s/a", "A", "1.2.3.4", 5, "k1"))
    lines, body = request.split(b"\r\n\r\n")
    assert lines.split(b"\r\n") == [
        b"POST /p HTTP/1.1",
        b"host: [::1]:8080",
        b"authorization: Bearer secret",
        b"content-type: application/json",
        b"idempotency-key: k1",
        b"content-length: %d" % len(body),
    ]
    assert orjson.loads(body) == {
        "short-url": "http://s/a",
        "user-agent": "A",
        "ip-address": "1.2.3.4",
        "clicked-at": 5,
    }


def test_a_batch_carries_one_line_per_click() -> None:
    """Fields that are not given are not sent; the key is a field of the line."""
    body = batch_request(b"", [Click("http://s/a"), Click("http://s/b", idempotency_key="k")]).split(b"\r\n\r\n")[1]
    assert [orjson.loads(line) for line in body.split(b"\n")] == [
        {"short-url": "http://s/a"},
        {"short-url": "http://s/b", "idempotency-key": "k"},
    ]


@pytest.mark.parametrize("url", ["ftp://a", "localhost:8080", "http://", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """One-line reason instead of a failed connection."""
    with pytest.raises(ValueError, match="not an http"):
        Target.of(url, "s")
