"""Listing links through the API: page after page, as the lines that register them."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final
from urllib.parse import urlencode

from clickledger.load.clicks import Target
from clickledger.registration import Api
from shared.errors import OperatorError
from shared.links import link_line

_PAGE_LINKS: Final = 1_000
"""The API's maximum."""


def link_lines(target: Target, promotion_id: str | None) -> Iterator[dict[str, Any]]:
    """Yield the lines of a tenant's links, of one promotion or of all. Raises as `Api.ask`."""
    asked = {"limit": str(_PAGE_LINKS)} | ({"promotion_id": promotion_id} if promotion_id else {})
    cursor = ""
    with closing(Api(target)) as api:
        while cursor is not None:
            status, page = api.ask("GET", f"/v1/links?{urlencode(asked | {'cursor': cursor})}")
            if status != http.client.OK:
                raise OperatorError(f"the API lists no links: {page}")
            yield from map(link_line, page["links"])
            cursor = page["next_cursor"]
