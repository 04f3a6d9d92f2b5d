"""What the demo loads and sends."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from clickledger import demo_data
from shared.links import LINK_FIELDS, PROMOTION_FIELDS

_NOW_MS = 1_760_000_000_000


def test_lines_have_known_fields_and_unique_links() -> None:
    """Every link belongs to a promotion that is loaded, and the published example is among them."""
    promotions = demo_data.promotion_lines(_NOW_MS)
    links = list(demo_data.link_lines(_NOW_MS))
    assert all(set(line) <= set(PROMOTION_FIELDS) and line["delivered"] <= line["sent"] for line in promotions)
    assert all(set(line) <= set(LINK_FIELDS) for line in links)
    assert {line["promotion_id"] for line in links} == {line["promotion_id"] for line in promotions}
    urls = {line["short_url"] for line in links}
    assert len(urls) == len(links) == 3_600
    assert demo_data.EXAMPLE_URL in urls


def test_history_clicks_come_after_their_message_and_before_now() -> None:
    """Thirty days, every promotion, only registered links, the same clicks each time."""
    sent_at = {line["short_url"]: line["sent_at"] for line in demo_data.link_lines(_NOW_MS)}
    clicks = list(demo_data.history(_NOW_MS))
    assert len(clicks) == demo_data.HISTORY_CLICKS
    for click in clicks:
        assert click.clicked_at_ms is not None
        assert sent_at[click.short_url] <= click.clicked_at_ms < _NOW_MS
    days = Counter((_NOW_MS - (click.clicked_at_ms or 0)) // 86_400_000 for click in clicks)
    assert len(days) > 25
    assert max(days) < demo_data.HISTORY_DAYS
    assert list(islice(demo_data.history(_NOW_MS), 50)) == clicks[:50]


def test_live_links_are_registered_and_begin_with_the_example() -> None:
    """The README's link gets the most clicks."""
    urls = {line["short_url"] for line in demo_data.link_lines(_NOW_MS)}
    links = demo_data.live_links()
    assert links[0] == demo_data.EXAMPLE_URL
    assert set(links) <= urls
