"""What the demo loads and sends: promotions, links, a month of clicks. Pure and seeded; times in ms UTC.

Names and figures of the promotions are made up; who clicks (agents and addresses) is counted from a real access log.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from clickledger.load.clicks import Click
from clickledger.load.generate import log_visitors

HISTORY_CLICKS: Final = 20_000
HISTORY_DAYS: Final = 30
LINKS_PER_PROMOTION: Final = 600
EXAMPLE_URL: Final = "http://shortdomain/dsltrack/employee/j460A8"
EXAMPLE_PROMOTION: Final = "employee-offer"
"""The published example's link belongs to this one."""

_DAY_MS: Final = 86_400_000
_MEAN_DELAY_MS: Final = 1.5 * _DAY_MS  # most of a message's clicks come on the first two days
_QUIET_HOURS: Final = frozenset(range(6))  # UTC; at night three of four clicks stay away


class DemoPromotion(NamedTuple):
    """One message that was sent out."""

    promotion_id: str
    name: str
    campaign_id: str
    days_ago: float
    sent: int
    delivered: int
    weight: int
    """its share of all clicks"""


PROMOTIONS: Final = (
    DemoPromotion("spring-sale", "Spring sale, 20 % off", "seasonal", 29, 60_000, 57_810, 30),
    DemoPromotion("flash-friday", "Flash Friday", "seasonal", 23, 45_000, 43_266, 24),
    DemoPromotion(EXAMPLE_PROMOTION, "Employee offer", "internal", 20, 4_000, 3_962, 6),
    DemoPromotion("loyalty-points", "Your points expire soon", "loyalty", 13, 38_000, 36_901, 18),
    DemoPromotion("app-update", "New in the app", "product", 6, 25_000, 24_130, 12),
    DemoPromotion("weekend-deal", "Weekend deal", "seasonal", 2, 30_000, 28_744, 10),
)


def promotion_lines(now_ms: int) -> list[dict[str, Any]]:
    """Give the lines that register the promotions."""
    return [
        {
            "promotion_id": each.promotion_id,
            "name": each.name,
            "campaign_id": each.campaign_id,
            "deployment_id": f"{each.campaign_id}-{number}",
            "sent": each.sent,
            "delivered": each.delivered,
            "sent_at": sent_at_ms(each, now_ms),
        }
        for number, each in enumerate(PROMOTIONS, 1)
    ]


def sent_at_ms(promotion: DemoPromotion, now_ms: int) -> int:
    """When the message went out."""
    return now_ms - int(promotion.days_ago * _DAY_MS)


def short_urls(promotion: DemoPromotion) -> list[str]:
    """Give the promotion's links, the most clicked first; ids look as random as real ones but never change."""
    rng = random.Random(promotion.promotion_id)  # noqa: S311  # repeatable, no secret
    alphabet = "23456789abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
    links = [f"http://go.example/{''.join(rng.choices(alphabet, k=6))}" for _ in range(LINKS_PER_PROMOTION)]
    return [EXAMPLE_URL, *links[1:]] if promotion.promotion_id == EXAMPLE_PROMOTION else links


def link_lines(now_ms: int) -> Iterator[dict[str, Any]]:
    """Yield the lines that register every link, each for one recipient."""
    for promotion in PROMOTIONS:
        for number, short_url in enumerate(short_urls(promotion), 1):
            yield {
                "short_url": short_url,
                "promotion_id": promotion.promotion_id,
                "recipient": f"{promotion.promotion_id}-{number:04d}",
                "link_name": "button" if number % 3 else "picture",
                "long_url": f"https://shop.example/{promotion.promotion_id}?ref=sms",
                "sent_at": sent_at_ms(promotion, now_ms),
            }


def history(now_ms: int, seed: int = 1) -> Iterator[Click]:
    """Yield a month of clicks, reported late with clicked-at, in no order: as an import would send them."""
    rng = random.Random(seed)  # noqa: S311  # repeatable, no secret
    links = {promotion: short_urls(promotion) for promotion in PROMOTIONS}
    visitors = log_visitors()
    for promotion in rng.choices(PROMOTIONS, [each.weight for each in PROMOTIONS], k=HISTORY_CLICKS):
        agent, address = visitors.draw(rng)
        of_promotion = links[promotion]
        short_url = of_promotion[int(len(of_promotion) * rng.random() ** 2)]
        agent_or_none = None if agent == "-" else agent
        yield Click(short_url, agent_or_none, address, _clicked_at_ms(rng, sent_at_ms(promotion, now_ms), now_ms))


def _clicked_at_ms(rng: random.Random, sent_ms: int, now_ms: int) -> int:
    """Draw a time after the message went out and before now, rarely at night."""
    while True:
        at_ms = sent_ms + int(rng.expovariate(1 / _MEAN_DELAY_MS))
        if at_ms >= now_ms:
            continue
        if at_ms // 3_600_000 % 24 not in _QUIET_HOURS or rng.random() < 0.25:
            return at_ms


def live_links() -> list[str]:
    """Give the links that are clicked live: the example first, then the newest messages'."""
    return [EXAMPLE_URL, *(url for each in reversed(PROMOTIONS[3:]) for url in short_urls(each)[:200])]
