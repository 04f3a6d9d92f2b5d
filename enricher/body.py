"""What a click's body says: whether its texts are texts, when the click happened, which click it is. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

from shared.clicked_at import clicked_at_ms

CLICKED_AHEAD_MS_MAX: Final = 86_400_000
CLICKED_BEHIND_MS_MAX: Final = 3_650 * 86_400_000
"""The widest bounds that the API's settings allow. The API judged the `clicked-at` by its settings and the tenant's
retention, said so in `clicked_at_ignored`, and what was true at acceptance stays true; these only keep times sane."""


_TEXT_OR_NULL: Final = (str, type(None))


def wrong_text(click: Mapping[str, Any]) -> str:
    """The name of a text in the body that is none, '' when there is no such."""
    texts = ("short-url", "user-agent", "ip-address")
    return next((name for name in texts if type(click.get(name)) not in _TEXT_OR_NULL), "")


def judge_clicked_at(given: object, received_at_ms: int, *, is_ignored: bool) -> tuple[int, bool]:
    """(when the click happened in ms, whether a given `clicked-at` is ignored); `is_ignored`: the API's verdict."""
    if given is None or given == "" or is_ignored:
        return received_at_ms, is_ignored
    given_ms = clicked_at_ms(given)
    least_ms = max(received_at_ms - CLICKED_BEHIND_MS_MAX, 0)
    if given_ms is not None and least_ms <= given_ms <= received_at_ms + CLICKED_AHEAD_MS_MAX:
        return given_ms, False
    return received_at_ms, True


def click_digest(click: Mapping[str, Any]) -> str:
    """Tells a repeated click from another one under the same key; unknown fields are ignored, as everywhere."""
    known = [click.get(name) or None for name in ("short-url", "user-agent", "ip-address", "clicked-at")]
    return hashlib.sha256(orjson.dumps(known, default=str)).hexdigest()[:32]
