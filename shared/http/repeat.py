"""Heads that come again: a client that keeps its connection sends the same head with every request, but for the length.

What the parser made of a head it would make of the same bytes again: between two requests it has no memory, and the
digits of Content-Length change nothing but where the body ends. So what begins with the remembered bytes, has digits
where they had digits, and ends where these say, is one whole request that is known without being parsed. Anything else
is the parser's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from shared.http.exchange import Endpoint, Exchange, Headers

if TYPE_CHECKING:
    from shared.http.connection import Connection

HEAD_BYTES_MAX: Final = 2_048
"""Longer heads are not remembered: each connection keeps one."""
HEAD_TRIES: Final = 4
"""Heads of one connection that are remembered in a row without coming again: then it is one whose heads all differ."""
DIGITS_MAX: Final = 8
"""Digits of a Content-Length that are read here."""

_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,8})\r\n", re.IGNORECASE)
_NEVER: Final = frozenset((b"transfer-encoding", b"expect", b"upgrade"))
"""Fields with which a request is more than a head and a body of known length."""
_END: Final = b"\r\n\r\n"


class Head:
    """The head of a whole request for a hot path, and what its endpoint concluded from it."""

    __slots__ = (
        "_after",
        "_before",
        "_begin",
        "_digits_at",
        "_endpoint",
        "_first",
        "_length_at",
        "_length_digits",
        "memo",
    )

    def __init__(
        self, first: Exchange, endpoint: Endpoint, before: bytes, digits: bytes, after: bytes, length_at: int
    ) -> None:
        """`before` and `after` the `digits` of Content-Length, which is field number `length_at`."""
        self.memo: object = None
        """The endpoint's own: what it need not judge again. Of this connection alone, and gone with it."""
        self._first = first
        self._endpoint = endpoint
        self._before = before
        self._after = after
        self._digits_at = len(before)
        self._length_digits = len(digits)
        self._begin = len(before) + len(digits) + len(after)
        """Where a body begins whose length has as many digits."""
        self._length_at = length_at

    def recognise(self, connection: Connection, data: bytes) -> Exchange | None:
        """The request that `data` is, if it is exactly one and has this head; else None."""
        if not data.startswith(self._before):
            return None
        begin, endpoint, headers = self._begin, self._endpoint, None
        size = len(data) - begin
        length = b"%d" % size
        if len(length) != self._length_digits or not data.startswith(length + self._after, self._digits_at):
            digits = self._digits(data)
            begin = self._digits_at + len(digits) + len(self._after)
            size = len(data) - begin
            if not digits or int(digits) != size:
                return None
            headers = self._headers(digits)
        if size > endpoint.body_bytes_max:
            return None
        first = self._first
        exchange = Exchange(connection, endpoint, first.method, first.target, headers, keep_alive=True)
        exchange.head, exchange.body, exchange.size = self, data[begin:], size
        return exchange

    def headers(self, size: int) -> Headers:
        """The header fields of a request that has this head and a body of so many bytes."""
        return self._headers(b"%d" % size)

    def _headers(self, digits: bytes) -> Headers:
        headers = self._first.headers.copy()
        headers[self._length_at] = (b"content-length", digits)
        return headers

    def _digits(self, data: bytes) -> bytes:
        """The length that a request gives which is otherwise like this; empty when it is not."""
        at = self._digits_at
        end = data.find(b"\r", at, at + DIGITS_MAX + 1)
        digits = data[at:end]
        return digits if digits.isdigit() and data.startswith(self._after, end) else b""


def remember(exchange: Exchange, data: bytes, head_bytes_max: int) -> Head | None:
    """The head of the one request that `data` was parsed as; None when it must not or cannot be known again.

    The head is the text up to its first empty line, with one line per field that the parser found: nothing folded,
    nothing before it, and nothing after the body.
    """
    head = data[: len(data) - exchange.size]
    endpoint = exchange.endpoint
    if endpoint is None or not exchange.keep_alive or len(head) + DIGITS_MAX > min(HEAD_BYTES_MAX, head_bytes_max):
        return None
    if data.find(_END) != len(head) - len(_END):
        return None
    fields = exchange.headers
    if not head.count(b"\n") == head.count(b"\r") == head.count(b"\r\n") == len(fields) + 2:
        return None
    names = [name for name, _ in fields]
    digits = _LENGTH.search(head)
    if digits is None or names.count(b"content-length") != 1 or not _NEVER.isdisjoint(names):
        return None
    length_at = names.index(b"content-length")
    if fields[length_at][1] != digits[1] or int(digits[1]) != exchange.size:
        return None
    first = Exchange(exchange.connection, endpoint, exchange.method, exchange.target, fields, keep_alive=True)
    return Head(first, endpoint, head[: digits.start(1)], digits[1], head[digits.end(1) :], length_at)
