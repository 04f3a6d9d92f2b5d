"""Heads that come again: a client that keeps its connection sends the same head with every request, but for the length.

What the parser made of a head it would make of the same bytes again: between two requests it has no memory, and the
digits of Content-Length change nothing but where the body ends. So what begins with the remembered bytes, has digits
where they had digits, and ends where these say, is one whole request that is known without being parsed. Anything else
is the parser's.

Behind a proxy each request also has values of its own: a trace id, the client's address. To the parser the value of a
field means nothing, but for the few fields that frame a request. So where two heads in a row differ in the values of some
other fields only, the next one may have any plain text there (`VaryingHead`), which becomes that field's value.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from shared.http.exchange import Endpoint, Exchange, Headers

if TYPE_CHECKING:
    from shared.http.connection import Connection

HEAD_BYTES_MAX: Final = 2_048
"""Longer heads are not remembered: each connection keeps one."""
HEAD_TRIES: Final = 4
"""Heads of one connection that are remembered in a row without coming again: then it is one whose heads all differ."""
DIGITS_MAX: Final = 8
"""Digits of a Content-Length that are read here."""

_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,%d})\r\n" % DIGITS_MAX, re.IGNORECASE)
VARYING_MAX: Final = 8
"""Fields of a head whose values may differ."""

_NEVER: Final = frozenset((b"transfer-encoding", b"expect", b"upgrade"))
"""Fields with which a request is more than a head and a body of known length."""
_SAME: Final = frozenset((b"connection", b"proxy-connection"))
"""Fields whose values mean something to the parser."""
_END: Final = b"\r\n\r\n"
_PLAIN: Final = bytes(range(0x20, 0x7F))
"""What a value may have that is not parsed: printable ASCII, with a space only inside."""


class Head:
    """The head of a whole request for a hot path, and what its endpoint concluded from it."""

    __slots__ = ("endpoint", "first", "length_at", "memo")

    varying: Collection[bytes] = ()
    """Names of the fields whose values may differ, besides Content-Length."""

    def __init__(self, first: Exchange, endpoint: Endpoint, length_at: int) -> None:
        """`first`: the request that it was the head of, without its body. `length_at`: the index of Content-Length."""
        self.first = first
        self.endpoint = endpoint
        self.length_at = length_at
        self.memo: object = None
        """The endpoint's own: what it need not judge again. Of this connection alone, and gone with it."""

    def recognise(self, connection: Connection, data: bytes) -> Exchange | None:
        """The request that `data` is, if it is exactly one and has this head; else None."""
        raise NotImplementedError

    def headers(self, exchange: Exchange) -> Headers:
        """The header fields of a request that has this head."""
        raise NotImplementedError


class SameHead(Head):
    """A head in which nothing differs but the digits of Content-Length; recognised in half the time of a `VaryingHead` of these."""

    __slots__ = ("_after", "_before", "_begin", "_digits_at", "_length_digits")

    def __init__(
        self, first: Exchange, endpoint: Endpoint, length_at: int, before: bytes, digits: bytes, after: bytes
    ) -> None:
        """`before` and `after` the `digits` of Content-Length."""
        super().__init__(first, endpoint, length_at)
        self._before = before
        self._after = after
        self._digits_at = len(before)
        self._length_digits = len(digits)
        self._begin = len(before) + len(digits) + len(after)
        """Where a body begins whose length has as many digits."""

    def recognise(self, connection: Connection, data: bytes) -> Exchange | None:
        """See `Head`."""
        if not data.startswith(self._before):
            return None
        begin, endpoint, headers = self._begin, self.endpoint, None
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
        first = self.first
        exchange = Exchange(connection, endpoint, first.method, first.target, headers, keep_alive=True)
        exchange.head, exchange.body, exchange.size = self, data[begin:], size
        return exchange

    def headers(self, exchange: Exchange) -> Headers:
        """See `Head`."""
        return self._headers(b"%d" % exchange.size)

    def _headers(self, digits: bytes) -> Headers:
        headers = self.first.headers.copy()
        headers[self.length_at] = (b"content-length", digits)
        return headers

    def _digits(self, data: bytes) -> bytes:
        """The length that a request gives which is otherwise like this; empty when it is not."""
        at = self._digits_at
        end = data.find(b"\r", at, at + DIGITS_MAX + 1)
        digits = data[at:end]
        return digits if digits.isdigit() and data.startswith(self._after, end) else b""


class Place(NamedTuple):
    """A value in the text of a head."""

    field: int
    """Index."""
    begin: int
    end: int


class VaryingHead(Head):
    """A head in which some fields have other values each time."""

    __slots__ = ("_bytes_max", "_indices", "_length_number", "_literals", "_tail", "varying")

    def __init__(
        self, first: Exchange, endpoint: Endpoint, length_at: int, text: bytes, places: Sequence[Place], bytes_max: int
    ) -> None:
        """`places`: the values in `text` that may differ, the length among them. `bytes_max`: of a head with other values."""
        super().__init__(first, endpoint, length_at)
        self._indices = [place.field for place in places]
        self._length_number = self._indices.index(length_at)
        self.varying = frozenset(first.headers[index][0] for index in self._indices if index != length_at)
        begins = (0, *(place.end for place in places))
        self._literals = [text[begin : place.begin] for begin, place in zip(begins, places, strict=False)]
        self._tail = text[begins[-1] :]
        self._bytes_max = bytes_max

    def recognise(self, connection: Connection, data: bytes) -> Exchange | None:
        """See `Head`."""
        at, values, bytes_max = 0, [], self._bytes_max
        for literal in self._literals:
            if not data.startswith(literal, at):
                return None
            begin = at + len(literal)
            at = data.find(b"\r", begin, bytes_max)
            values.append(data[begin:at])
        begin, digits, endpoint = at + len(self._tail), values[self._length_number], self.endpoint
        size = len(data) - begin
        if begin > bytes_max or not data.startswith(self._tail, at) or not _are_plain(values):
            return None
        if not digits.isdigit() or len(digits) > DIGITS_MAX or int(digits) != size or size > endpoint.body_bytes_max:
            return None
        first = self.first
        exchange = Exchange(connection, endpoint, first.method, first.target, None, keep_alive=True)
        exchange.head, exchange.body, exchange.size, exchange.head_values = self, data[begin:], size, values
        return exchange

    def headers(self, exchange: Exchange) -> Headers:
        """See `Head`."""
        headers = self.first.headers.copy()
        for index, value in zip(self._indices, exchange.head_values, strict=True):
            headers[index] = (headers[index][0], value)
        return headers


def _are_plain(values: Sequence[bytes]) -> bool:
    """Whether each is a text that the parser takes as it is: not empty, no space around it, nothing but printable ASCII."""
    text = b"|%b|" % b"|".join(values)
    return not (text.translate(None, _PLAIN) or b"| " in text or b" |" in text or b"||" in text)


def remember(exchange: Exchange, data: bytes, head_bytes_max: int, former: Head | None) -> Head | None:
    """The head of the one request that `data` was parsed as; None when it must not or cannot be known again.

    The head is the text up to its first empty line, with one line per field that the parser found: nothing folded,
    nothing before it, and nothing after the body. `former`: the head that was remembered before, to tell what differs.
    """
    head = data[: len(data) - exchange.size]
    endpoint, fields = exchange.endpoint, exchange.headers
    bytes_max = min(HEAD_BYTES_MAX, head_bytes_max - len(fields))  # the parser may count one byte more for each field
    if endpoint is None or not exchange.keep_alive or len(head) + DIGITS_MAX > bytes_max:
        return None
    if data.find(_END) != len(head) - len(_END):
        return None
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
    places = [] if former is None else _varying_places(former, first, length_at, head)
    if places:
        return VaryingHead(first, endpoint, length_at, head, places, bytes_max)
    return SameHead(first, endpoint, length_at, head[: digits.start(1)], digits[1], head[digits.end(1) :])


def _varying_places(former: Head, first: Exchange, length_at: int, text: bytes) -> list[Place]:
    """The values in `text`, the head of `first`, that may differ, the length among them; nothing when no other may.

    A value may differ that is another than in the former head, or that was one of those there.
    """
    old, new = former.first.headers, first.headers
    names = [name for name, _ in new]
    if names != [name for name, _ in old]:
        return []
    indices = {index for index, name in enumerate(names) if name in former.varying or old[index] != new[index]}
    indices.discard(length_at)
    if not 0 < len(indices) <= VARYING_MAX or not _SAME.isdisjoint(names[index] for index in indices):
        return []
    places, end = [], text.index(b"\r\n")
    for index, (_, value) in enumerate(new):
        end = text.index(b"\r\n", end + 2)
        if index in indices or index == length_at:
            place = Place(index, end - len(value), end)
            if text[place.begin : place.end] != value:  # a parser that leaves out spaces behind a value; ours does not
                return []
            places.append(place)
    return places
